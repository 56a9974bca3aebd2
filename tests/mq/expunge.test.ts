/** Taking a name out of a topic: what is finished goes, wherever it lies; what is not stays, and is counted. */

import { expect, test } from "bun:test";
import * as v from "valibot";
import { Bury, defineTopic } from "../../lib/mq/index.ts";
import { eventually } from "../support/eventually.ts";
import { openTestQueue, type TestQueue } from "../support/queue.ts";

const notes = defineTopic("notes", { schema: v.looseObject({ n: v.number() }) });
const ANN = { key: "ann", texts: ['"by":"ann"'] };

async function publish(t: TestQueue, ...messages: (readonly [key: string, data: { n: number; by?: string }])[]) {
  await t.queue.publishMany(
    notes,
    messages.map(([key, data]) => ({ type: "note", key, data })),
  );
}

async function left(t: TestQueue): Promise<number[]> {
  const rows = await t.store.redis.commands.xrange(t.store.keys.topic("notes", 0), "-", "+");
  return rows.map(([, [, data]]) => (JSON.parse(data!) as { n: number }).n);
}

/** A group that finishes everything but what `handle` throws at. */
async function consume(
  t: TestQueue,
  group: string,
  mode: "ordered" | "concurrent",
  handle: (n: number) => void = () => undefined,
) {
  let seen = 0;
  await t.run(
    t.queue.consume(notes, {
      ...{ group, mode, backoff: [30_000] },
      handle({ data }) {
        seen += 1;
        handle(data.n);
      },
    }),
  );
  return () => seen;
}

test("what every group has finished goes, by key or by text, and nothing else", async () => {
  await using t = await openTestQueue("mq-expunge", { partitions: 1 });
  const counts = [await consume(t, "a", "ordered"), await consume(t, "b", "concurrent")];
  await publish(t, ["x", { n: 1 }], ["ann", { n: 2 }], ["x", { n: 3, by: "ann" }], ["x", { n: 4, by: "anna" }]);
  await eventually(() => expect(counts.map((count) => count())).toEqual([4, 4]));
  let entries = 0;
  await eventually(async () => {
    const found = await t.queue.expunge(notes, ANN);
    entries += found.entries;
    expect(found.waiting).toEqual(new Map());
  });
  expect(entries).toBe(2);
  expect(await left(t)).toEqual([1, 4]);
  // The groups go on as if nothing had been.
  await publish(t, ["x", { n: 5 }]);
  await eventually(() => expect(counts.map((count) => count())).toEqual([5, 5]));
  await eventually(async () => {
    const { groups } = await t.queue.describe(notes);
    expect(groups.map(({ lag }) => lag)).toEqual([0, 0]);
  });
});

test("what a group has not finished stays, and says whose it is", async () => {
  await using t = await openTestQueue("mq-expunge", { partitions: 1 });
  const fail = (n: number) => {
    if (n === 2) throw new Error("not yet");
  };
  const counts = [
    await consume(t, "done", "ordered"),
    await consume(t, "slow", "ordered", fail),
    await consume(t, "lazy", "concurrent", fail),
  ];
  await publish(t, ["x", { n: 1, by: "ann" }], ["y", { n: 2, by: "ann" }], ["z", { n: 3 }]);
  await eventually(() => expect(counts.map((count) => count())).toEqual([3, 3, 3]));
  await eventually(async () => {
    const { waiting } = await t.queue.expunge(notes, ANN);
    expect(waiting).toEqual(
      new Map([
        ["slow", 1],
        ["lazy", 1],
      ]),
    );
  });
  expect(await left(t)).toEqual([2, 3]);
});

test("dead letters and delayed messages go, ended ones too", async () => {
  await using t = await openTestQueue("mq-expunge", { partitions: 1 });
  const bury = () => {
    throw new Bury("hopeless");
  };
  await consume(t, "g", "ordered", bury);
  await publish(t, ["ann", { n: 1 }], ["x", { n: 2, by: "ann" }], ["x", { n: 3 }]);
  const letters = async () => (await t.queue.deadLetters.list("notes", "g")).letters;
  await eventually(async () => expect(await letters()).toHaveLength(3));
  const later = { type: "note", deliverAt: Date.now() + 3_600_000 };
  const delayed = await t.queue.publishMany(notes, [
    { ...later, key: "ann", data: { n: 4 } },
    { ...later, key: "x", data: { n: 5, by: "ann" } },
    { ...later, key: "x", data: { n: 6 } },
    { ...later, key: "ann", data: { n: 7 } },
  ]);
  await t.queue.delayed.cancel(delayed[3]!.id);
  await t.queue.publish(t.topic, { ...later, type: "a", key: "ann", data: { n: 8 } });
  expect(await t.queue.expunge(notes, ANN)).toMatchObject({ letters: 2, delayed: 3 });
  expect((await letters()).map(({ key }) => key)).toEqual(["x"]);
  const { messages } = await t.queue.delayed.list();
  expect(messages.map(({ topic, key }) => [topic, key])).toEqual([
    ["notes", "x"],
    ["t", "ann"],
  ]);
  expect(await t.queue.expunge(notes, ANN)).toMatchObject({ entries: 0, letters: 0, delayed: 0 });
});
