/** One round through each corner of the queue, for a Redis where a script that crosses slots fails: each says what must hold after it. */

import { expect } from "bun:test";
import * as v from "valibot";
import { Bury, defineTopic, type Message, openQueue, type Queue, type QueueOptions } from "../../lib/mq/index.ts";
import type { Service } from "../../lib/service.ts";
import { eventually } from "./eventually.ts";

const Numbered = v.strictObject({ n: v.number() });
const numbered = (key: string, n: number) => ({ type: "n", key, data: { n } });
/** Enough keys to lie on all masters. */
const KEYS = Array.from({ length: 12 }, (_, i) => `key-${i}`);

async function whileRunning(services: readonly Service[], round: () => Promise<void>): Promise<void> {
  for (const service of services) await service.start();
  await round();
  for (const service of services) await service.stop(AbortSignal.timeout(3_000));
}

/** Keys fail, stand aside and are parked; unparked, everything comes in order. */
export async function roundOfAside(queue: Queue): Promise<void> {
  const topic = defineTopic("rounds.aside", { schema: Numbered });
  const seen = new Map<string, number[]>();
  let isBroken = true;
  const consumer = queue.consume(topic, {
    ...{ group: "parking", mode: "ordered", backoff: [10], maxAttempts: 2, onPoison: "park" },
    handle({ key, data }: Message<{ n: number }>) {
      if (isBroken) throw new Error("broken");
      seen.set(key, [...(seen.get(key) ?? []), data.n]);
    },
  });
  await whileRunning([consumer], async () => {
    for (const n of [1, 2, 3])
      await queue.publishMany(
        topic,
        KEYS.map((key) => numbered(key, n)),
      );
    await eventually(async () => expect(await queue.aside.list(topic, "parking")).toHaveLength(KEYS.length));
    isBroken = false;
    await eventually(async () => {
      for (const { key, state } of await queue.aside.list(topic, "parking")) {
        if (state === "parked") expect(await queue.aside.unpark(topic, "parking", key)).toBe("ok");
      }
      for (const key of KEYS) expect(seen.get(key)).toEqual([1, 2, 3]);
    });
  });
}

/** Buried, redriven in the call and in the background, handled. */
export async function roundOfRedrive(queue: Queue): Promise<void> {
  const topic = defineTopic("rounds.redrive", { schema: Numbered });
  // So that trace knows where to look.
  await queue.catalog.declareTopic(topic.name, {});
  const seen: number[] = [];
  let isBroken = true;
  const consumer = queue.consume(topic, {
    ...{ group: "giving-up", mode: "concurrent" },
    handle({ data }: Message<{ n: number }>) {
      if (isBroken) throw new Bury("hopeless");
      seen.push(data.n);
    },
  });
  await whileRunning([consumer], async () => {
    await queue.publishMany(
      topic,
      KEYS.map((key, n) => numbered(key, n)),
    );
    const buried = async () => (await queue.deadLetters.list("rounds.redrive", "giving-up", {})).letters;
    await eventually(async () => expect(await buried()).toHaveLength(KEYS.length));
    isBroken = false;
    const [first] = await buried();
    const { results } = await queue.deadLetters.redrive("rounds.redrive", "giving-up", { ids: [first!.id] });
    expect(results.map(({ result }) => result)).toEqual(["redriven"]);
    const { redrive } = await queue.deadLetters.redrive(
      "rounds.redrive",
      "giving-up",
      { filter: {} },
      { perSecond: 1_000 },
    );
    await eventually(async () => {
      await queue.deadLetters.runRedrives();
      expect(await queue.deadLetters.redriveStatus(redrive!)).toMatchObject({ state: "done" });
      expect(seen).toHaveLength(KEYS.length);
    });
    // Seen is not acked yet.
    await eventually(async () =>
      expect((await queue.trace(first!.messageId)).deliveries.map(({ state }) => state)).toContain("finished"),
    );
    expect((await queue.expunge(topic, { key: KEYS[0], texts: [] })).entries).toBeGreaterThan(0);
  });
}

/** Half messages to each of their ends. */
export async function roundOfHalves(options: QueueOptions): Promise<void> {
  const queue = openQueue(options);
  const { transactions } = queue;
  const topic = defineTopic("rounds.halves", { schema: Numbered });
  const prepare = (producerGroup: string) =>
    Promise.all(
      KEYS.map((key, n) => transactions.prepare(topic, numbered(key, n), { producerGroup, firstCheckMs: 0 })),
    );
  const [committed, rolledBack] = [await prepare("a"), await prepare("b")];
  for (const { id } of committed) expect(await transactions.commit(id)).toMatchObject({ state: "committed" });
  for (const { id } of rolledBack) expect(await transactions.rollback(id)).toMatchObject({ state: "rolled_back" });
  await prepare("shop");
  const checks = transactions.answerChecks("shop", () => "commit");
  await whileRunning([checks], () =>
    eventually(async () => expect((await queue.describe(topic)).length).toBe(2 * KEYS.length)),
  );
  const brief = openQueue({ ...options, halfTimes: { budgetMs: 0 } }).transactions;
  const late = await brief.prepare(topic, numbered("late", 1), { producerGroup: "c", firstCheckMs: 0 });
  await eventually(async () => {
    await brief.expire();
    expect(await brief.get(late.id)).toMatchObject({ state: "expired" });
  });
  expect((await transactions.list({ state: "expired" })).halves.map(({ id }) => id)).toEqual([late.id]);
  await transactions.resume(late.id);
  expect(await transactions.rollback(late.id)).toMatchObject({ state: "rolled_back" });
}

/** Delayed messages: fired by the timers, moved, sent now, cancelled. */
export async function roundOfDelayed(queue: Queue): Promise<void> {
  const topic = defineTopic("rounds.delayed", { schema: Numbered });
  const at = Date.now() + 500;
  const publish = (key: string, n: number, deliverAt: number) =>
    queue.publish(topic, { ...numbered(key, n), deliverAt });
  await whileRunning([queue.createTimers()], async () => {
    await Promise.all(KEYS.map((key, n) => publish(key, n, at)));
    const later = await Promise.all([1, 2, 3].map((n) => publish(`later-${n}`, n, at + 3_600_000)));
    const [moved, sent, cancelled] = later.map(({ id }) => id) as [string, string, string];
    expect((await queue.delayed.list({ topic: "rounds.delayed" })).messages.length).toBeGreaterThanOrEqual(3);
    expect(await queue.delayed.move(moved, at)).toBe("ok");
    expect(await queue.delayed.sendNow(sent)).toBe("ok");
    expect(await queue.delayed.cancel(cancelled)).toBe("ok");
    await eventually(async () => expect((await queue.describe(topic)).length).toBe(KEYS.length + 2));
    expect(await queue.delayed.cancel(moved)).toBe("already_fired");
  });
}

/** What services declare, and state that is written with its message. */
export async function roundOfDeclarations(queue: Queue): Promise<void> {
  await queue.catalog.declareGroup("rounds.declared", "g", { mode: "concurrent" });
  expect(await queue.catalog.groups("rounds.declared")).toMatchObject([{ group: "g" }]);
  const topic = await queue.catalog.topicOf("rounds.declared");
  for (const key of KEYS) {
    const input = { type: "n", key, data: 1 };
    await queue.publishWith(topic, input, [["HINCRBY", "count", "n", 1]]);
    await queue.publishWith(topic, { ...input, deliverAt: Date.now() + 3_600_000 }, [["HINCRBY", "count", "n", 1]]);
  }
  await queue.control.dropGroup(topic, "g");
}

/** What handlers commit: the ack, with writes and next messages of the same partition and of others. */
export async function roundOfConsumeTransactions(queue: Queue): Promise<void> {
  const next = defineTopic("rounds.next", { schema: Numbered });
  for (const mode of ["ordered", "concurrent"] as const) {
    const topic = defineTopic(`rounds.committed.${mode}`, { schema: Numbered });
    const consumer = queue.consume(topic, {
      ...{ group: "committing", mode },
      async handle(message: Message<{ n: number }>, context) {
        const publish = [message.key, `${message.key}-elsewhere`].map((key) => ({
          topic: next,
          input: numbered(key, 1),
        }));
        await context.commit({ writes: [["HINCRBY", `sum.${mode}`, "n", message.data.n]], publish });
      },
    });
    const before = (await queue.describe(next)).length;
    await whileRunning([consumer, queue.createTimers()], async () => {
      await queue.publishMany(
        topic,
        KEYS.map((key) => numbered(key, 1)),
      );
      await eventually(async () => expect((await queue.describe(next)).length).toBe(before + 2 * KEYS.length));
    });
  }
}
