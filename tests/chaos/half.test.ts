/** The campaign on half messages in small, on real processes, and its judge: planted faults are found under their names. */

import { expect, test } from "bun:test";
import * as v from "valibot";
import { defineTopic } from "../../lib/mq/index.ts";
import { runHalfCampaign } from "../../scripts/chaos/half-campaign.ts";
import { type HalfLine, PARTITIONS, TOPIC } from "../../scripts/chaos/half-plan.ts";
import { type HalfVerdict, judgeHalves } from "../../scripts/chaos/half-verdict.ts";
import { openTestQueue } from "../support/queue.ts";

test("whoever dies: every half ends, none is seen before its commit, each committed one once", async () => {
  const lines: string[] = [];
  const seed = Math.floor(Math.random() * 1_000_000);
  const result = await runHalfCampaign({ count: 200, seed, keep: false, print: (line) => lines.push(line) });
  if (!result.isClean) throw new Error(lines.join("\n"));
  expect(result.producersKilled).toBeGreaterThan(1);
  expect(result.figures.states.committed).toBeGreaterThan(20);
});

test("the judge finds what is wrong", async () => {
  await using t = await openTestQueue("chaos-half", { partitions: PARTITIONS, halfTimes: { budgetMs: 0 } });
  const { queue } = t;
  const { keys, redis } = t.store;
  const orders = defineTopic(TOPIC, { schema: v.strictObject({ n: v.number() }) });
  const input = (n: number, id?: string) => ({ type: "order.placed", key: "k", data: { n }, ...(id && { id }) });
  const evidence: HalfLine[] = [];
  const prepare = async (n: number) => {
    const { id } = await queue.transactions.prepare(orders, input(n), { producerGroup: "shop" });
    evidence.push({ e: "prepared", n, id, fate: "commit", t: Date.now() });
    return id;
  };
  const ask = (id: string, decision: "commit" | "rollback", t = Date.now()) =>
    void evidence.push({ e: "asked", id, decision, t });
  const judge = async () => (await judgeHalves(evidence, { queue, keys, commands: redis.commands })).verdict;
  const clean = await judge();
  const expected = { ...clean };
  const plant = async (kind: keyof HalfVerdict, how: () => Promise<unknown>) => {
    await how();
    expected[kind] += 1;
    expect(await judge()).toEqual(expected);
  };

  const [committed, rolledBack, expired] = [await prepare(1), await prepare(2), await prepare(3)];
  ask(committed, "commit");
  await queue.transactions.commit(committed);
  ask(rolledBack, "rollback");
  await queue.transactions.rollback(rolledBack);
  await queue.transactions.expire();
  expect(await judge()).toEqual(clean);
  expect(Object.values(clean).every((count) => count === 0)).toBe(true);

  await plant("foreign", () => queue.publish(orders, input(9, "nobody")));
  await plant("doubled", () => queue.publish(orders, input(1, committed)));
  await plant("wronglyVisible", async () => {
    ask(expired, "commit");
    await queue.publish(orders, input(3, expired));
  });
  await plant("contradicted", async () =>
    evidence.push({ e: "told", id: rolledBack, state: "committed", t: Date.now() }),
  );
  await plant("idleChecks", async () => evidence.push({ e: "check", id: committed, check: 16, t: Date.now() }));
  await plant("vanished", async () => evidence.push({ e: "prepared", n: 7, id: "gone", fate: "commit", t: 1 }));
  await plant("undue", async () => {
    const id = await prepare(4);
    await queue.transactions.rollback(id);
  });
  await plant("visibleEarly", async () => {
    const id = await prepare(5);
    await queue.transactions.commit(id);
    ask(id, "commit", Date.now() + 60_000);
  });
  await plant("lost", async () => {
    const id = await prepare(6);
    ask(id, "commit");
    const { entry } = await queue.transactions.commit(id);
    await redis.commands.xdel(keys.topic(TOPIC, keys.partitionOf("k")), entry!);
  });
  await plant("unresolved", () => prepare(8));
});
