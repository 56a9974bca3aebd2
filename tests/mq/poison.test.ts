/** Messages that take their holders with them: whatever the policy of the group, one message does not stop the others for ever. */

import { expect, test } from "bun:test";
import type { ConsumeOptions, Message } from "../../lib/mq/index.ts";
import { eventually } from "../support/eventually.ts";
import { byKey, keysOfOnePartition, type Numbered, openTestQueue, range, type TestQueue } from "../support/queue.ts";

const LIVES_MAX = 12;

interface Crashes {
  readonly seen: Message<Numbered>[];
  /** Starts the group again and again; each life ends when the deadly key is handed out. Resolves to how many there were. */
  until(isOver: (life: number) => Promise<boolean>): Promise<number>;
}

/** A group whose process dies whenever it is handed a message of the key `deadly`. */
function crashing(t: TestQueue, deadly: string, policy: Partial<ConsumeOptions<Numbered>>): Crashes {
  const seen: Message<Numbered>[] = [];
  return {
    seen,
    async until(isOver) {
      for (let life = 1; life <= LIVES_MAX; life++) {
        let hasDied = false;
        const service = t.queue.consume(t.topic, {
          ...{ group: "g", mode: "ordered", leaseMs: 1_000, backoff: [5] },
          ...policy,
          handle(message: Message<Numbered>) {
            if (message.key !== deadly) return void seen.push(message);
            hasDied = true;
            return new Promise(() => undefined);
          },
        } as ConsumeOptions<Numbered>);
        await t.run(service);
        const isDone = await eventually(async () => {
          const done = await isOver(life);
          if (!done && !hasDied) throw new Error("nothing happens");
          return done;
        });
        if (isDone) return life;
        await service.stop(AbortSignal.abort());
      }
      throw new Error(`it went on for ${LIVES_MAX} lives`);
    },
  };
}

test("a message over which holders are lost is parked where the group parks, and the others are handed out", async () => {
  await using t = await openTestQueue("mq-poison");
  const [deadly, good] = keysOfOnePartition(t.store.keys.partitionOf, 2) as [string, string];
  await t.publish(deadly, 1, 3);
  await t.publish(good, 1, 20);
  const { seen, until } = crashing(t, deadly, { onPoison: "park" });
  const lives = await until(async () => (await t.queue.aside.list(t.topic, "g")).length > 0);
  expect(lives).toBeGreaterThan(3);
  await eventually(() => expect(new Set(byKey(seen)[good])).toEqual(new Set(range(1, 20))));
  const [record] = await t.queue.aside.list(t.topic, "g");
  expect(record).toMatchObject({ key: deadly, state: "parked", messages: 3 });
  expect(record!.history.at(-1)![2]).toContain("holders were lost");
  expect(await t.deadLetters("g")).toEqual([]);
});

for (const onPoison of ["park", "skip"] as const) {
  test(`a message over which holders are lost when it comes from aside: ${onPoison}`, async () => {
    await using t = await openTestQueue("mq-poison");
    const [deadly, good] = keysOfOnePartition(t.store.keys.partitionOf, 2) as [string, string];
    const failing = await t.run(
      t.queue.consume(t.topic, {
        ...{ group: "g", mode: "ordered", onPoison: "park", maxAttempts: 1, leaseMs: 1_000 },
        handle() {
          throw new Error("not now");
        },
      }),
    );
    await t.publish(deadly, 1, 1);
    await eventually(async () => expect(await t.queue.aside.list(t.topic, "g")).toHaveLength(1));
    await failing.stop(AbortSignal.timeout(5_000));
    await t.queue.aside.unpark(t.topic, "g", deadly);
    await t.publish(good, 1, 20);
    const { seen, until } = crashing(t, deadly, { onPoison });
    await until(async () => {
      const [record] = await t.queue.aside.list(t.topic, "g");
      return onPoison === "park" ? record?.state === "parked" : record === undefined;
    });
    await eventually(() => expect(new Set(byKey(seen)[good])).toEqual(new Set(range(1, 20))));
    expect(await t.deadLetters("g")).toMatchObject(onPoison === "park" ? [] : [{ k: deadly, reason: "poison" }]);
  });
}

test("a group that blocks tries such a message for ever, and hands out the others between", async () => {
  await using t = await openTestQueue("mq-poison");
  const [deadly, good] = keysOfOnePartition(t.store.keys.partitionOf, 2) as [string, string];
  await t.publish(deadly, 1, 1);
  const { seen, until } = crashing(t, deadly, { onPoison: "block" });
  let published = 0;
  await until(async (life) => {
    if (life > published) await t.publish(good, life, life);
    published = life;
    return life > 9 && new Set(byKey(seen)[good]).size >= 9;
  });
  expect(await t.deadLetters("g")).toEqual([]);
  expect(await t.queue.aside.list(t.topic, "g")).toMatchObject([{ key: deadly, failed: 0 }]);
});
