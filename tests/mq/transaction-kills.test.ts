/** Members that are killed at any moment of their consume transactions: every effect is there, once. */

import { expect, test } from "bun:test";
import { eventually } from "../support/eventually.ts";
import { openTestQueue, range, type TestQueue } from "../support/queue.ts";
import { caughtUp, FORMS, numbersIn } from "../support/transactions.ts";

/** Times that each member is killed; then it may finish. */
const KILLS = 5;
const LIFE_MS_MAX = 400;
/** Messages published before each life. */
const PER_LIFE = 15;
const PARTITIONS = 4;

async function startMember({ store }: TestQueue, name: string, mode: string, kind: string) {
  const script = new URL("../support/transaction-process.ts", import.meta.url).pathname;
  const args = [store.url, store.prefix, String(PARTITIONS), name, mode, kind];
  const child = Bun.spawn([process.execPath, script, ...args], { stdout: "pipe", stderr: "inherit" });
  await child.stdout.getReader().read();
  return {
    async [Symbol.asyncDispose]() {
      child.kill("SIGKILL");
      await child.exited;
    },
  };
}

test.each(FORMS)("%s group, %s handler", async (mode, kind) => {
  await using t = await openTestQueue("mq-kills", { partitions: PARTITIONS });
  await t.run(t.queue.createTimers());
  let count = 0;
  const publishSome = async () => {
    const from = count + 1;
    count += PER_LIFE;
    await t.publish(`k${from % 7}`, from, from + PER_LIFE - 1);
  };
  const dieOften = async (name: string) => {
    for (const _ of range(1, KILLS)) {
      await using _member = await startMember(t, name, mode, kind);
      await publishSome();
      await Bun.sleep(LIFE_MS_MAX * Math.random());
    }
  };
  await Promise.all(["a", "b"].map(dieOften));
  await using _a = await startMember(t, "a", mode, kind);
  await using _b = await startMember(t, "b", mode, kind);
  await publishSome();
  await eventually(async () => expect((await numbersIn(t, "now")).length).toBeGreaterThanOrEqual(count), 30_000);
  await caughtUp(t);
  const { keys, redis } = t.store;
  const own = (name: string) => range(0, PARTITIONS - 1).map((partition) => keys.own(partition, name));
  const sums = await Promise.all(own("sum").map((key) => redis.commands.get(key)));
  expect(sums.reduce((sum, each) => sum + Number(each ?? 0), 0)).toBe((count * (count + 1)) / 2);
  const counts = await Promise.all(own("counts").map((key) => redis.commands.hvals(key)));
  expect(counts.flat()).toEqual(range(1, count).map(() => "1"));
  expect(await numbersIn(t, "now")).toEqual(range(1, count));
  await eventually(async () => {
    expect(await numbersIn(t, "later")).toEqual(range(1, count));
    expect(await numbersIn(t, "far")).toEqual(range(1, count));
  });
});
