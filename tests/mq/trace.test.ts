/** The life of one message by its id: commits, what each group has made of it, and honest answers where the search ended. */

import { describe, expect, test } from "bun:test";
import { newId } from "../../lib/id.ts";
import { Bury, type ConsumeOptions, Later, type Trace } from "../../lib/mq/index.ts";
import { plantLetters } from "../support/dead-letters.ts";
import { eventually } from "../support/eventually.ts";
import { type Numbered, openTestQueue, range, type TestQueue } from "../support/queue.ts";

/** A queue whose catalog knows topic `t`. */
async function openTraced() {
  const t = await openTestQueue("mq-trace");
  await t.queue.catalog.declareTopic("t", {});
  await t.queue.catalog.declareTopic("other", {});
  return t;
}

const publishOne = async (t: TestQueue, id?: string) =>
  t.queue.publish(t.topic, { type: "numbered", key: "k", data: { n: 1 }, ...(id === undefined ? {} : { id }) });

const stateOf = ({ deliveries }: Trace, group: string) =>
  deliveries.filter((delivery) => delivery.group === group).map(({ state }) => state);

test("says where a message was committed, and what each group has made of it", async () => {
  await using t = await openTraced();
  const run = (options: Omit<ConsumeOptions<Numbered>, "handleBatch">) =>
    t.run(t.queue.consume(t.topic, { ...options, backoff: [60_000] } as ConsumeOptions<Numbered>));
  for (const mode of ["ordered", "concurrent"] as const) {
    await run({ group: `${mode}-done`, mode, handle: () => undefined });
    await run({ group: `${mode}-busy`, mode, handle: () => new Promise(() => undefined) });
    await run({ group: `${mode}-buried`, mode, handle: () => Promise.reject(new Bury("hopeless")) });
  }
  await run({
    ...{ group: "concurrent-failing", mode: "concurrent" },
    handle() {
      throw new Error("not yet");
    },
  });
  await run({
    ...{ group: "concurrent-later", mode: "concurrent" },
    handle() {
      throw new Later(60_000);
    },
  });
  const { id, entry, partition } = await publishOne(t);
  await eventually(async () => {
    const trace = await t.queue.trace(id);
    expect(trace).toMatchObject({ id, verdict: "found", isComplete: true, records: [] });
    expect(trace.commits).toEqual([
      {
        ...{ topic: "t", partition, entry, time: Number(entry.split("-")[0]), key: "k", type: "numbered", tag: "" },
        ...{ sequence: undefined, originSequence: undefined, expireAt: undefined, addressedTo: undefined },
        ...{ redrives: 0, bytes: 7 },
      },
    ]);
    const of = Object.fromEntries(trace.deliveries.map((delivery) => [delivery.group, delivery]));
    expect(of["ordered-done"]).toMatchObject({ state: "finished", mode: "ordered", attempts: [] });
    expect(of["concurrent-done"]).toMatchObject({ state: "finished", mode: "concurrent" });
    expect(of["ordered-busy"]!.state).toBeOneOf(["unread", "in_hand"]);
    expect(of["concurrent-busy"]).toMatchObject({ state: "in_hand", member: "m", attemptCount: 0 });
    for (const mode of ["ordered", "concurrent"]) {
      expect(of[`${mode}-buried`]).toMatchObject({ state: "dead_letter", member: "m", attempts: [{ member: "m" }] });
    }
    expect(of["concurrent-failing"]!.dueAt).toBeGreaterThan(Date.now() + 30_000);
    expect(of["concurrent-failing"]).toMatchObject({
      ...{ state: "retrying", attemptCount: 1 },
      attempts: [{ member: "m", error: "Error: not yet" }],
    });
    expect(of["concurrent-later"]).toMatchObject({ state: "retrying", attemptCount: 0 });
    expect(trace.deadLetters.map(({ group, lastError }) => [group, lastError]).sort()).toEqual([
      ["concurrent-buried", "Bury: hopeless"],
      ["ordered-buried", "Bury: hopeless"],
    ]);
  });
});

test("what no member has read is unread", async () => {
  await using t = await openTraced();
  await t.queue.catalog.declareGroup("t", "o", { mode: "ordered" });
  await t.queue.catalog.declareGroup("t", "c", { mode: "concurrent" });
  const { id } = await publishOne(t);
  const trace = await t.queue.trace(id);
  expect([stateOf(trace, "o"), stateOf(trace, "c")]).toEqual([["unread"], ["unread"]]);
});

test("what a declared tag filter lets by is told as passed over", async () => {
  await using t = await openTraced();
  await t.queue.catalog.declareGroup("t", "g", { mode: "ordered", tags: ["vip"] });
  await t.run(t.queue.consume(t.topic, { group: "g", mode: "ordered", tags: ["vip"], handle: () => undefined }));
  const { id } = await publishOne(t);
  await eventually(async () => expect(stateOf(await t.queue.trace(id), "g")).toEqual(["passed_over"]));
});

test("redriven, it has two entries, the second for its group alone", async () => {
  await using t = await openTraced();
  let calls = 0;
  for (const group of ["g", "h"]) {
    await t.run(
      t.queue.consume(t.topic, {
        ...{ group, mode: "ordered" },
        handle() {
          calls += 1;
          if (group === "g" && calls < 3) throw new Bury("once");
        },
      }),
    );
  }
  const { id, entry } = await publishOne(t);
  await eventually(async () => expect(await t.deadLetters("g")).toHaveLength(1));
  calls = 10;
  await t.queue.deadLetters.redrive("t", "g", { filter: {} });
  await eventually(async () => {
    const trace = await t.queue.trace(id);
    expect(
      trace.commits.map(({ addressedTo, redrives, originSequence }) => [addressedTo, redrives, originSequence]),
    ).toEqual([
      [undefined, 0, undefined],
      ["g", 1, entry],
    ]);
    expect(stateOf(trace, "g")).toEqual(["redriven", "finished"]);
    expect(stateOf(trace, "h")).toEqual(["finished"]);
    expect(trace.deadLetters).toEqual([]);
  });
});

describe("the search", () => {
  test("finds few among many by the time of the id, looking at few", async () => {
    await using t = await openTraced();
    const { redis, keys } = t.store;
    // Two a second, over the last hours.
    const start = Date.now() - 4 * 3_600_000;
    const ids = range(1, 20_000).map((n) => newId(start + n * 500));
    await Promise.all(
      ids.map((id, i) => redis.commands.xadd(keys.topic("t", i % 4), `${start + i * 500 + 600}-0`, `${id} a   `, "{}")),
    );
    for (const i of [0, 7_000, 19_999]) {
      const trace = await t.queue.trace(ids[i]!);
      expect(trace).toMatchObject({ verdict: "found", isComplete: true, commits: [{ partition: i % 4 }] });
      expect(trace.entriesLookedAt).toBeLessThan(100);
    }
  });

  test("falls back to looking backwards for ids that tell no time, and for messages that came late", async () => {
    await using t = await openTraced();
    await t.publish("x", 1, 2_000);
    const late = newId(Date.now() - 3_600_000);
    await publishOne(t, "of-my-own-making");
    await publishOne(t, late);
    await t.publish("y", 1, 2_000);
    for (const id of ["of-my-own-making", late]) {
      const trace = await t.queue.trace(id);
      expect(trace).toMatchObject({ verdict: "found", isComplete: true, commits: [{ topic: "t", key: "k" }] });
    }
  });

  test("of an id that names its partition looks there only", async () => {
    await using t = await openTraced();
    await t.publish("x", 1, 500);
    const partition = t.store.keys.partitionOf("k");
    const id = `${newId(Date.now() - 3_600_000)}-${partition}`;
    await publishOne(t, id);
    const trace = await t.queue.trace(id);
    expect(trace.commits).toMatchObject([{ partition }]);
    expect(trace.entriesLookedAt).toBeLessThanOrEqual(501 + 1);
  });

  test("says not_found, and that all was looked through", async () => {
    await using t = await openTraced();
    await t.publish("x", 1, 10);
    for (const id of [newId(Date.now()), `${newId(Date.now())}-2`, "nobody's"]) {
      expect(await t.queue.trace(id)).toMatchObject({
        ...{ verdict: "not_found", isComplete: true, commits: [], deliveries: [], deadLetters: [] },
      });
    }
  });

  test("says that it ended where its bound was, and looks no further", async () => {
    await using t = await openTraced();
    const { redis, keys } = t.store;
    for (let i = 0; i < 21; i++) {
      await redis.commands.eval(
        "for i = 1, 10000 do redis.call('XADD', KEYS[1], '*', 'x a   ', '1') end",
        1,
        keys.topic("t", 0),
      );
    }
    const trace = await t.queue.trace("lost");
    expect(trace).toMatchObject({ verdict: "not_found", isComplete: false });
    expect(trace.entriesLookedAt).toBeWithin(200_000, 201_000);
  });

  test("finds a dead letter whose entry was trimmed", async () => {
    await using t = await openTraced();
    await t.queue.catalog.declareGroup("t", "g", { mode: "concurrent" });
    await plantLetters(t, [{ partition: 2, at: "5-0", n: 7 }]);
    const trace = await t.queue.trace("id-7");
    expect(trace).toMatchObject({
      ...{ verdict: "found", commits: [] },
      deliveries: [{ group: "g", partition: 2, entry: "8-0", state: "dead_letter", deadLetter: "2-5-0" }],
      deadLetters: [{ id: "2-5-0", messageId: "id-7" }],
    });
  });

  test("refuses what can be no id", async () => {
    await using t = await openTraced();
    for (const id of ["", "a b", "x".repeat(129)]) {
      await expect(t.queue.trace(id)).rejects.toMatchObject({ code: "INVALID", issues: [{ path: "id" }] });
    }
  });
});

test("a half message is told of before, and found at once behind its commit", async () => {
  await using t = await openTraced();
  const { transactions } = t.queue;
  const { id } = await transactions.prepare(
    t.topic,
    { type: "numbered", key: "k", data: { n: 1 } },
    { producerGroup: "shop" },
  );
  expect(await t.queue.trace(id)).toMatchObject({
    ...{ verdict: "found", commits: [], deliveries: [] },
    records: [{ kind: "half", record: { id, state: "prepared", producerGroup: "shop" } }],
  });
  await t.publish("k", 1, 1_000);
  const { entry } = await transactions.commit(id);
  const trace = await t.queue.trace(id);
  expect(trace).toMatchObject({ commits: [{ entry }], records: [{ record: { state: "committed" } }] });
  expect(trace.entriesLookedAt).toBe(1);
});

describe("an ordered group's failing key", () => {
  test("its message is retrying, with its attempts", async () => {
    await using t = await openTraced();
    await t.run(
      t.queue.consume(t.topic, {
        ...{ group: "g", mode: "ordered", backoff: [60_000] },
        handle() {
          throw new Error("not yet");
        },
      }),
    );
    const { id } = await publishOne(t);
    await eventually(async () => {
      const [delivery] = (await t.queue.trace(id)).deliveries;
      expect(delivery).toMatchObject({
        ...{ state: "retrying", attemptCount: 1 },
        attempts: [{ member: "m", error: "Error: not yet" }],
      });
    });
  });

  test("parked, holds all that come for it, and the first tells why", async () => {
    await using t = await openTraced();
    await t.run(
      t.queue.consume(t.topic, {
        ...{ group: "g", mode: "ordered", backoff: [1], maxAttempts: 2, onPoison: "park" },
        handle() {
          throw new Error("not today");
        },
      }),
    );
    const first = await publishOne(t);
    const second = await publishOne(t);
    await eventually(async () => {
      const [head] = (await t.queue.trace(first.id)).deliveries;
      expect(head).toMatchObject({ state: "parked", attempts: [{ error: "Error: not today" }, {}] });
      const [behind] = (await t.queue.trace(second.id)).deliveries;
      expect(behind).toMatchObject({ state: "parked", attemptCount: 0 });
    });
  });
});

test("a delayed message is told of while it waits, and found at once when it has been sent", async () => {
  await using t = await openTraced();
  const deliverAt = Date.now() + 3_600_000;
  const { id } = await t.queue.publish(t.topic, { type: "numbered", key: "k", data: { n: 1 }, deliverAt });
  expect(await t.queue.trace(id)).toMatchObject({
    ...{ verdict: "found", commits: [] },
    records: [{ kind: "delayed", record: { id, state: "PENDING", deliverAt } }],
  });
  await t.publish("k", 1, 1_000);
  await t.queue.delayed.sendNow(id);
  const trace = await t.queue.trace(id);
  expect(trace).toMatchObject({ commits: [{ topic: "t", key: "k" }], records: [{ record: { state: "FIRED" } }] });
  expect(trace.entriesLookedAt).toBe(1);
});
