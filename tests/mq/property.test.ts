/**
 * Random histories of publishing, failing, crashing and handing over: nothing is lost, and no key is ever out of order. A seed
 * is printed with every run; SEED below repeats its run.
 */

import { expect, test } from "bun:test";
import fc from "fast-check";
import type { ConsumeOptions, Message } from "../../lib/mq/index.ts";
import type { Service } from "../../lib/service.ts";
import { eventually } from "../support/eventually.ts";
import { type Numbered, openTestQueue, type TestQueue } from "../support/queue.ts";

/** Set to a printed seed to repeat its run. */
const SEED: number | undefined = undefined;
const RUNS = 12;
const MEMBERS = ["a", "b"] as const;
const KEYS = ["k1", "k2", "k3", "k4", "k5"];

type Step =
  | { readonly act: "publish"; readonly key: number; readonly count: number }
  | { readonly act: "fail"; readonly key: number; readonly times: number }
  | { readonly act: "crash" | "restart"; readonly member: number }
  | { readonly act: "wait"; readonly ms: number };

const step = fc.oneof(
  {
    weight: 5,
    arbitrary: fc.record({
      act: fc.constant("publish" as const),
      key: fc.nat(4),
      count: fc.integer({ min: 1, max: 30 }),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({ act: fc.constant("fail" as const), key: fc.nat(4), times: fc.integer({ min: 1, max: 4 }) }),
  },
  {
    weight: 2,
    arbitrary: fc.record({ act: fc.constantFrom("crash" as const, "restart" as const), member: fc.nat(1) }),
  },
  { weight: 2, arbitrary: fc.record({ act: fc.constant("wait" as const), ms: fc.nat(30) }) },
);

interface History {
  /** Per key, the numbers that a handler finished, in that order. */
  readonly finished: Map<string, number[]>;
  readonly faults: string[];
  readonly failures: Map<string, number>;
}

function handled({ finished, faults, failures }: History, message: Message<Numbered>): void {
  const { key, data } = message;
  const numbers = finished.get(key) ?? [];
  finished.set(key, numbers);
  const highest = Math.max(0, ...numbers);
  if (data.n > highest + 1) faults.push(`${key}: ${data.n} was handed out when ${highest} was the last finished`);
  const left = failures.get(key) ?? 0;
  if (left > 0) {
    failures.set(key, left - 1);
    throw new Error("as told");
  }
  numbers.push(data.n);
}

async function play(t: TestQueue, steps: readonly Step[], isBatch: boolean): Promise<void> {
  const history: History = { finished: new Map(), faults: [], failures: new Map() };
  const published = new Map<string, number>();
  const running = new Map<string, Service>();
  const start = async (member: string) => {
    const base = { group: "g", mode: "ordered", leaseMs: 1_000, backoff: [2], batchMax: 7 } as const;
    const options: ConsumeOptions<Numbered> = isBatch
      ? {
          ...base,
          handleBatch(messages) {
            for (const message of messages) handled(history, message);
          },
        }
      : {
          ...base,
          async handle(message) {
            if (message.data.n % 5 === 0) await Bun.sleep(1);
            handled(history, message);
          },
        };
    running.set(member, await t.run(t.member(member).consume(t.topic, options)));
  };
  for (const member of MEMBERS) await start(member);
  for (const each of steps) {
    if (each.act === "publish") {
      const key = KEYS[each.key]!;
      const from = (published.get(key) ?? 0) + 1;
      published.set(key, from + each.count - 1);
      await t.publish(key, from, from + each.count - 1);
    } else if (each.act === "fail") history.failures.set(KEYS[each.key]!, each.times);
    else if (each.act === "wait") await Bun.sleep(each.ms);
    else {
      const member = MEMBERS[each.member]!;
      // A hard stop leaves the leases as a crash does; the member takes them back under its name.
      await running.get(member)!.stop(each.act === "crash" ? AbortSignal.abort() : AbortSignal.timeout(5_000));
      await start(member);
    }
  }
  await eventually(() => {
    expect(history.faults).toEqual([]);
    for (const [key, upTo] of published) expect(Math.max(...(history.finished.get(key) ?? [0]))).toBe(upTo);
  });
  expect(await t.deadLetters("g")).toEqual([]);
}

for (const isBatch of [false, true]) {
  test(`${isBatch ? "batch" : "single"} handlers: nothing lost, keys in order, whatever happens`, async () => {
    const seed = SEED ?? Math.floor(Math.random() * 2 ** 31);
    console.log(`seed ${seed}`);
    await fc.assert(
      fc.asyncProperty(fc.array(step, { minLength: 5, maxLength: 40 }), async (steps) => {
        await using t = await openTestQueue("mq-property");
        await play(t, steps, isBatch);
      }),
      { seed, numRuns: RUNS, endOnFailure: true },
    );
  });
}
