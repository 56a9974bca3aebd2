/**
 * Random histories of failing, parking, unparking, crashing and handing over in a group that parks: whatever stands aside, every
 * key is handed out in order and nothing is lost. A seed is printed with every run; SEED below repeats its run.
 */

import { expect, test } from "bun:test";
import fc from "fast-check";
import type { DeliveryContext, Message } from "../../lib/mq/index.ts";
import type { Service } from "../../lib/service.ts";
import { eventually } from "../support/eventually.ts";
import { type Numbered, openTestQueue, type TestQueue } from "../support/queue.ts";

/** Set to a printed seed to repeat its run. */
const SEED: number | undefined = undefined;
const RUNS = 10;
const MEMBERS = ["a", "b"] as const;
const KEYS = ["k1", "k2", "k3", "k4", "k5"];

type Step =
  | { readonly act: "publish"; readonly key: number; readonly count: number }
  | { readonly act: "fail"; readonly key: number; readonly times: number }
  | { readonly act: "unpark"; readonly key: number }
  | { readonly act: "crash" | "restart"; readonly member: number }
  | { readonly act: "wait"; readonly ms: number };

const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 5,
    arbitrary: fc.record({
      act: fc.constant("publish" as const),
      key: fc.nat(4),
      count: fc.integer({ min: 1, max: 200 }),
    }),
  },
  {
    weight: 3,
    arbitrary: fc.record({ act: fc.constant("fail" as const), key: fc.nat(4), times: fc.integer({ min: 1, max: 6 }) }),
  },
  { weight: 2, arbitrary: fc.record({ act: fc.constant("unpark" as const), key: fc.nat(4) }) },
  {
    weight: 2,
    arbitrary: fc.record({ act: fc.constantFrom("crash" as const, "restart" as const), member: fc.nat(1) }),
  },
  { weight: 3, arbitrary: fc.record({ act: fc.constant("wait" as const), ms: fc.nat(300) }) },
);

/** What the handlers did, seen by a sink that refuses who lost its lease. */
class Sink {
  readonly faults: string[] = [];
  /** By key, the number that was finished last, and the highest. */
  readonly last = new Map<string, number>();
  readonly highest = new Map<string, number>();
  readonly failures = new Map<string, number>();
  readonly #tokens = new Map<string, number>();

  handled({ key, data }: Message<Numbered>, { token }: DeliveryContext): void {
    if (token < (this.#tokens.get(key) ?? 0)) return;
    this.#tokens.set(key, token);
    const last = this.last.get(key) ?? 0;
    if (data.n > last + 1) this.faults.push(`${key}: ${data.n} was handed out when ${last} was the last finished`);
    const left = this.failures.get(key) ?? 0;
    if (left > 0) {
      this.failures.set(key, left - 1);
      throw new Error("as told");
    }
    this.last.set(key, data.n);
    this.highest.set(key, Math.max(data.n, this.highest.get(key) ?? 0));
  }
}

async function play(t: TestQueue, steps: readonly Step[]): Promise<void> {
  const sink = new Sink();
  const published = new Map<string, number>();
  const running = new Map<string, Service>();
  const start = async (member: string) => {
    const service = t.member(member).consume(t.topic, {
      ...{ group: "g", mode: "ordered", leaseMs: 1_000, backoff: [2], onPoison: "park", maxAttempts: 2 },
      async handle(message, context) {
        if (message.data.n % 7 === 0) await Bun.sleep(1);
        sink.handled(message, context);
      },
    });
    running.set(member, await t.run(service));
  };
  for (const member of MEMBERS) await start(member);
  for (const each of steps) {
    if (each.act === "publish") {
      const key = KEYS[each.key]!;
      const from = (published.get(key) ?? 0) + 1;
      published.set(key, from + each.count - 1);
      await t.publish(key, from, from + each.count - 1);
    } else if (each.act === "fail") sink.failures.set(KEYS[each.key]!, each.times);
    else if (each.act === "unpark") await t.queue.aside.unpark(t.topic, "g", KEYS[each.key]!);
    else if (each.act === "wait") await Bun.sleep(each.ms);
    else {
      const member = MEMBERS[each.member]!;
      await running.get(member)!.stop(each.act === "crash" ? AbortSignal.abort() : AbortSignal.timeout(5_000));
      await start(member);
    }
  }
  sink.failures.clear();
  await eventually(async () => {
    expect(sink.faults).toEqual([]);
    for (const key of KEYS) await t.queue.aside.unpark(t.topic, "g", key);
    for (const [key, upTo] of published) expect(sink.highest.get(key)).toBe(upTo);
  });
  await eventually(async () => {
    // What failed as told may be parked by a commit that was still to come, though a later life handles it again.
    for (const key of KEYS) await t.queue.aside.unpark(t.topic, "g", key);
    const [group] = (await t.queue.describe(t.topic)).groups;
    expect(group).toMatchObject({ lag: 0, sideMessages: 0, parkedKeys: 0, deadLetters: 0 });
  });
  for (const [key, upTo] of published) expect(sink.last.get(key)).toBe(upTo);
}

test("parked, unparked, failing, crashing: nothing lost, keys in order", async () => {
  const seed = SEED ?? Math.floor(Math.random() * 2 ** 31);
  console.log(`seed ${seed}`);
  await fc.assert(
    fc.asyncProperty(fc.array(step, { minLength: 5, maxLength: 40 }), async (steps) => {
      await using t = await openTestQueue("mq-side-property", { partitions: 2 });
      await play(t, steps);
    }),
    { seed, numRuns: RUNS, endOnFailure: true },
  );
}, 180_000);
