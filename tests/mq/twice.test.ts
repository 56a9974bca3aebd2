/** Groups on a connection that sends every script twice: whoever did not hear an answer may repeat, and everything happens once. */

import { expect, test } from "bun:test";
import { Bury, type ConsumeOptions, Later, type Message } from "../../lib/mq/index.ts";
import { eventually } from "../support/eventually.ts";
import { byKey, type Numbered, openTestQueue, range } from "../support/queue.ts";
import { sendTwice } from "../support/twice.ts";

const KEYS = range(1, 6).map((i) => `k${i}`);
const PER_KEY = 40;
/** Scripts that hand something out: who did not hear of it gets it again when the lease is over. */
const HAND_OUTS = ["mqClaim"];

const CASES = (["ordered", "concurrent"] as const).flatMap((mode) =>
  (["single", "batch"] as const).map((handler) => ({ mode, handler })),
);

test.each(CASES)("$mode, $handler handler: everything sent twice happens once", async ({ mode, handler }) => {
  await using t = await openTestQueue("mq-twice");
  sendTwice(t.store.redis.commands, { isHandOut: (script) => HAND_OUTS.includes(script) });
  const handled: Message<Numbered>[] = [];
  const distinct = () => [...new Map(handled.map((message) => [message.id, message])).values()];
  const tried = new Set<string>();
  const handle = (message: Message<Numbered>) => {
    const { key, data, id } = message;
    if (key === "k2" && data.n === 7) throw new Bury("hopeless");
    if (data.n % 10 === 3 && !tried.has(id)) {
      tried.add(id);
      throw key === "k3" ? new Later(1) : new Error("not yet");
    }
    handled.push(message);
  };
  // What a claim hands out unheard comes again when the lease is over; ordered groups claim nothing.
  const leaseMs = mode === "ordered" ? 30_000 : 1_000;
  const base = { group: "g", mode, leaseMs, backoff: [5], batchMax: 1 } as const;
  const options: ConsumeOptions<Numbered> =
    handler === "single" ? { ...base, handle } : { ...base, handleBatch: ([message]) => handle(message!) };
  const service = await t.run(t.queue.consume(t.topic, options));
  for (const key of KEYS) {
    const inputs = range(1, PER_KEY).map((n) => ({ type: "numbered", key, data: { n }, dedupId: `${key}/${n}` }));
    const results = await t.queue.publishMany(t.topic, inputs);
    // The answer is the repetition's: the original's id and place.
    expect(results.every(({ duplicate }) => duplicate)).toBe(true);
  }
  await eventually(() => expect(distinct()).toHaveLength(KEYS.length * PER_KEY - 1));
  await eventually(async () => expect(await t.deadLetters("g")).toHaveLength(1));
  await service.stop(AbortSignal.timeout(20_000));
  // Once each, but for what was lost while the process stood still.
  const lost = (await t.store.metrics.leasesLost.get()).values[0]?.value ?? 0;
  expect(handled.length - distinct().length).toBeLessThanOrEqual(lost);
  for (const [key, numbers] of Object.entries(byKey(distinct()))) {
    const expected = range(1, PER_KEY).filter((n) => key !== "k2" || n !== 7);
    expect(mode === "ordered" ? numbers : numbers.sort((a, b) => a - b)).toEqual(expected);
  }
  expect(await t.deadLetters("g")).toMatchObject([{ k: "k2", d: '{"n":7}', reason: "bury" }]);
  const { groups } = await t.queue.describe(t.topic);
  expect(groups).toMatchObject([{ group: "g", lag: 0, open: 0, deadLetters: 1 }]);
});
