/**
 * Every script with a key of a wrong type planted at each of its keys: it refuses and the keyspace is unchanged. And every script
 * sent twice in a row: the second time changes nothing.
 */

import { describe, expect, test } from "bun:test";
import { systemClock } from "../../lib/clock.ts";
import { type Declaration, declare, type QueueContext } from "../../lib/mq/consumer.ts";
import { DeliveryLeases, Hold, NO_ATTEMPTS } from "../../lib/mq/delivery-lease.ts";
import { searchEntries } from "../../lib/mq/entry-search.ts";
import { registerGroup } from "../../lib/mq/group.ts";
import type { Queue } from "../../lib/mq/index.ts";
import { acquireLease, PartitionLease } from "../../lib/mq/lease.ts";
import { scanLetters } from "../../lib/mq/letter-scan.ts";
import { Membership } from "../../lib/mq/membership.ts";
import { Delivery, type StreamEntry } from "../../lib/mq/message.ts";
import { cancelRedrive, runRedrives, startRedrive } from "../../lib/mq/redrive-runner.ts";
import { createTransactions } from "../../lib/mq/transaction.ts";
import { silentLog } from "../../lib/observability/index.ts";
import { scriptNames } from "../../lib/redis/script.ts";
import { contentOf } from "../support/content.ts";
import { digestOf, letterOf, openTestQueue, type TestQueue } from "../support/queue.ts";
import { sendTwice } from "../support/twice.ts";

interface Stage {
  readonly t: TestQueue;
  readonly context: QueueContext;
  readonly ordered: Declaration<unknown>;
  readonly concurrent: Declaration<unknown>;
  readonly leases: DeliveryLeases;
  /** Deliveries 1 and 2 of the concurrent group, held by this member for longer than its lease. */
  readonly holds: readonly Hold<unknown>[];
  /** Half messages: one whose check is due, one whose budget is over, one that expired. */
  readonly halves: { readonly due: string; readonly over: string; readonly expired: string };
}

const LEASE_MS = 10_000;

/** One partition with both kinds of group, deliveries in hand, a retry that is due, a dead letter, and half messages. */
async function setStage(): Promise<Stage> {
  const t = await openTestQueue("mq-scripts", { partitions: 1 });
  const { redis, keys, metrics } = t.store;
  const context: QueueContext = { redis, keys, metrics, clock: systemClock, log: silentLog, member: "m" };
  const of = (mode: "ordered" | "concurrent") =>
    declare<unknown>({ group: mode, mode, leaseMs: 1_000, handle: () => undefined });
  const [ordered, concurrent] = [of("ordered"), of("concurrent")];
  for (const declaration of [ordered, concurrent]) await registerGroup(context, "t", declaration, 0, "first");
  await t.publish("k", 1, 300);
  // By another member, so that the one under test has nothing of it in memory.
  await t.member("other").catalog.declareTopic("t", {});
  await t.queue.publish(t.topic, { type: "a", key: "k", data: { n: 301 }, dedupId: "known" });
  await acquireLease({ context, topic: "t", declaration: ordered, partition: 0, session: "1" });
  const leases = new DeliveryLeases(context, "t", "concurrent", LEASE_MS);
  const stream = keys.topic("t", 0);
  const reply = await redis.commands.xreadgroup("GROUP", "concurrent", "m", "COUNT", 4, "STREAMS", stream, ">");
  const [[, entries]] = reply as unknown as [[string, StreamEntry[]]];
  const holds = entries.map((entry) => new Hold<unknown>(new Delivery(t.topic, 0, entry), 1, NO_ATTEMPTS));
  const late = ["XCLAIM", stream, "concurrent", "m", 0, entries[0]![0], entries[1]![0], "IDLE", 2 * LEASE_MS, "JUSTID"];
  await redis.commands.call(...(late as [string, ...string[]]));
  const letter = letterOf(entries[3]![0]);
  const record = { failed: 1, losses: 0, firstFailureMs: 1, history: [[1, "m", "no"]] as const };
  await leases.settle(0, [
    { hold: holds[2]!, settlement: { kind: "retry", waitMs: 0, record } },
    { hold: holds[3]!, settlement: { kind: "bury", letter } },
  ]);
  await startRedrive(context, "running", redriveAll);
  const halves = await prepareHalves(t, context);
  return { t, context, ordered, concurrent, leases, holds: holds.slice(0, 2), halves };
}

async function prepareHalves(t: TestQueue, context: QueueContext): Promise<Stage["halves"]> {
  const brief = createTransactions(context, () => undefined, { budgetMs: 0 });
  const prepare = async ({ transactions }: Pick<Queue, "transactions">) => {
    const input = { type: "a", key: "k", data: { n: 1 } };
    return (await transactions.prepare(t.topic, input, { producerGroup: "shop", firstCheckMs: 0 })).id;
  };
  const expired = await prepare({ transactions: brief });
  await brief.expire();
  return { expired, over: await prepare({ transactions: brief }), due: await prepare(t.queue) };
}

const redriveAll = { topic: "t", group: "concurrent", perSecond: 1_000, selection: { filter: {} } };

const key = {
  stream: ({ t }: Stage) => t.store.keys.topic("t", 0),
  even: ({ t }: Stage) => t.store.keys.published("t", 0, "even"),
  odd: ({ t }: Stage) => t.store.keys.published("t", 0, "odd"),
  groups: ({ t }: Stage) => t.store.keys.groups("t", 0),
  orderedLease: ({ t }: Stage) => t.store.keys.lease("t", 0, "ordered"),
  orderedDead: ({ t }: Stage) => t.store.keys.deadLetters("t", 0, "ordered"),
  lease: ({ t }: Stage) => t.store.keys.lease("t", 0, "concurrent"),
  retries: ({ t }: Stage) => t.store.keys.retries("t", 0, "concurrent"),
  attempts: ({ t }: Stage) => t.store.keys.attempts("t", 0, "concurrent"),
  dead: ({ t }: Stage) => t.store.keys.deadLetters("t", 0, "concurrent"),
  aside: ({ t }: Stage) => t.store.keys.aside("t", 0, "ordered"),
  asideDue: ({ t }: Stage) => t.store.keys.asideDue("t", 0, "ordered"),
  side: ({ t }: Stage) => t.store.keys.side("t", 0, "ordered"),
  sideOrder: ({ t }: Stage) => t.store.keys.sideOrder("t", 0, "ordered"),
  topics: ({ t }: Stage) => t.store.keys.topics(),
  groupSettings: ({ t }: Stage) => t.store.keys.groupSettings("t"),
  webhooks: ({ t }: Stage) => t.store.keys.webhooks(),
  members: ({ t }: Stage) => t.store.keys.groupMembers("t", "ordered"),
  control: ({ t }: Stage) => t.store.keys.groupControl("t", "ordered"),
  half: ({ t }: Stage) => t.store.keys.half(0),
  halfDue: ({ t }: Stage) => t.store.keys.halfDue(0, "shop"),
  halfPrepared: ({ t }: Stage) => t.store.keys.halfIn(0, "prepared"),
  halfExpired: ({ t }: Stage) => t.store.keys.halfIn(0, "expired"),
  halfEnded: ({ t }: Stage) => t.store.keys.halfIn(0, "ended"),
  own: ({ t }: Stage) => t.store.keys.own(0, "state"),
  redrives: ({ t }: Stage) => t.store.keys.redrives(),
  runningRedrive: ({ t }: Stage) => t.store.keys.redrive("running"),
  newRedrive: ({ t }: Stage) => t.store.keys.redrive("new"),
};

const SCRIPTS: Record<string, { keys: readonly (keyof typeof key)[]; run: (stage: Stage) => Promise<unknown> }> = {
  publish: {
    keys: ["stream", "even", "odd"],
    run: ({ t }) => t.queue.publish(t.topic, { type: "a", key: "k", data: { n: 1 }, dedupId: "new" }),
  },
  "publish-with": {
    keys: ["stream", "even", "odd", "groups", "own"],
    run: ({ t }) => {
      const input = { type: "a", key: "k", data: { n: 1 }, dedupId: "new" };
      return t.queue.publishWith(t.topic, input, [["HSET", "state", "n", 1]]);
    },
  },
  "half-prepare": {
    keys: ["half", "halfDue", "halfPrepared", "stream", "groups"],
    run: ({ t }) =>
      t.queue.transactions.prepare(t.topic, { type: "a", key: "k", data: { n: 1 } }, { producerGroup: "shop" }),
  },
  "half-decide": {
    keys: ["half", "halfDue", "halfPrepared", "halfExpired", "halfEnded", "stream", "even", "odd"],
    run: ({ t, halves }) => t.queue.transactions.commit(halves.due),
  },
  "half-resume": {
    keys: ["half", "halfDue", "halfPrepared", "halfExpired"],
    run: ({ t, halves }) => t.queue.transactions.resume(halves.expired),
  },
  "half-claim": {
    keys: ["half", "halfDue", "halfPrepared"],
    run: ({ t }) => t.queue.transactions.receiveChecks("shop", { max: 10, waitMs: 0 }),
  },
  "half-expire": {
    keys: ["half", "halfDue", "halfPrepared", "halfExpired", "halfEnded"],
    run: ({ t }) => t.queue.transactions.expire(),
  },
  "half-read": { keys: ["half", "halfDue"], run: ({ t, halves }) => t.queue.transactions.get(halves.due) },
  "group-register ordered": {
    keys: ["groups", "stream"],
    run: ({ context, ordered }) => registerGroup(context, "t", { ...ordered, group: "new" }, 0, "latest"),
  },
  "group-register concurrent": {
    keys: ["groups", "stream", "lease"],
    run: ({ context, concurrent }) => registerGroup(context, "t", concurrent, 0, "latest"),
  },
  "lease-acquire": {
    keys: ["orderedLease", "groups"],
    run: ({ context, ordered }) =>
      acquireLease({ context, topic: "t", declaration: ordered, partition: 0, session: "2" }),
  },
  "lease-commit": {
    keys: ["orderedLease", "orderedDead"],
    async run({ context, ordered }) {
      const site = { context, topic: "t", declaration: ordered, partition: 0, session: "1" };
      const progress = { checkpoint: "0-0", read: 0, open: [] };
      const token = Number(
        (await context.redis.commands.hget(context.keys.lease("t", 0, "ordered"), "token").catch(() => 1)) ?? 1,
      );
      const grant = {
        token,
        progress,
        losses: 0,
        suspect: "",
        blame: 0,
        previousOwner: "",
        askedAt: performance.now(),
      };
      const lease = new PartitionLease(site, grant, () => undefined);
      lease.follow(() => ({ checkpoint: "9999999999999-0", read: 5, open: [] }));
      lease.bury(letterOf("5-0"));
      if (!(await lease.commit())) throw new Error("not committed");
    },
  },
  "member-beat": {
    keys: ["members", "control"],
    run: ({ context }) => new Membership(context, "t", "ordered", 1_000).look(),
  },
  claim: { keys: ["stream", "retries", "attempts", "lease"], run: ({ leases }) => leases.claim(0, 10) },
  ack: { keys: ["stream", "attempts"], run: ({ leases, holds }) => leases.ack(0, holds) },
  settle: {
    keys: ["stream", "retries", "attempts", "dead"],
    run({ leases, holds }) {
      const record = { failed: 1, losses: 0, firstFailureMs: 1, history: [[1, "m", "no"]] as const };
      const [first, second] = holds as [Hold<unknown>, Hold<unknown>];
      const entry = second.delivery.entry;
      const letter = letterOf(entry);
      return leases.settle(0, [
        { hold: first, settlement: { kind: "retry", waitMs: 0, record } },
        { hold: second, settlement: { kind: "bury", letter } },
      ]);
    },
  },
  "topic-declare": { keys: ["topics"], run: ({ t }) => t.queue.catalog.declareTopic("t", { maxLength: 5 }) },
  "group-declare": {
    keys: ["topics", "groupSettings", "webhooks"],
    run: ({ t }) =>
      t.queue.catalog.declareGroup("t", "ordered", {
        mode: "ordered",
        webhook: { url: "https://a.example", secret: "0123456789" },
      }),
  },
  renew: { keys: ["stream"], run: ({ leases, holds }) => leases.renew(0, holds) },
  disown: { keys: ["stream", "retries", "attempts"], run: ({ leases }) => leases.disown(0, 10) },
  "consumers-drop": { keys: ["stream"], run: ({ leases }) => leases.dropConsumers(0, 0, 10) },
  "seek ordered": {
    keys: ["stream", "groups", "orderedLease", "aside", "asideDue", "side", "sideOrder"],
    run: ({ t }) => t.queue.control.seek(t.topic, "ordered", "first"),
  },
  "seek concurrent": {
    keys: ["stream", "groups", "lease", "retries", "attempts"],
    run: ({ t }) => t.queue.control.seek(t.topic, "concurrent", "first"),
  },
  "group-drop ordered": {
    keys: ["stream", "groups", "orderedLease", "orderedDead", "aside", "asideDue", "side", "sideOrder"],
    run: ({ t }) => t.queue.control.dropGroup(t.topic, "ordered"),
  },
  "group-drop concurrent": {
    keys: ["stream", "groups", "lease", "retries", "attempts", "dead"],
    run: ({ t }) => t.queue.control.dropGroup(t.topic, "concurrent"),
  },
  "dead-scan": {
    keys: ["dead"],
    run: ({ context }) =>
      scanLetters(context, {
        ...{ topic: "t", group: "concurrent", partition: 0, from: "-", to: "+" },
        ...{ newestFirst: false, conditions: {}, wanted: 1 },
      }),
  },
  find: { keys: ["stream"], run: ({ context }) => searchEntries(context, "id", ["t"]) },
  redrive: {
    keys: ["stream", "dead", "lease"],
    async run({ t }) {
      const [letter] = (await t.queue.deadLetters.list("t", "concurrent").catch(() => ({ letters: [] }))).letters;
      return t.queue.deadLetters.redrive("t", "concurrent", { ids: [letter?.id ?? "0-1-0"] });
    },
  },
  "redrive-start": {
    keys: ["redrives", "newRedrive"],
    run: ({ context }) => startRedrive(context, "new", redriveAll),
  },
  "redrive-claim": { keys: ["runningRedrive"], run: ({ context }) => runRedrives(context) },
  "redrive-note": { keys: ["redrives", "runningRedrive"], run: ({ context }) => cancelRedrive(context, "running") },
  count: { keys: ["stream"], run: ({ t }) => t.queue.describe(t.topic) },
  trim: {
    keys: ["stream", "groups", "orderedLease", "lease"],
    run: ({ t }) => t.queue.trim({ name: "t", retentionMs: 1, lengthMax: 1, backlogMax: 10, dedupMs: 1 }),
  },
};

describe("a wrong type at a key changes nothing", () => {
  for (const [name, { keys, run }] of Object.entries(SCRIPTS)) {
    for (const planted of keys) {
      test(`${name}: ${planted}`, async () => {
        const stage = await setStage();
        await using t = stage.t;
        const { commands } = t.store.redis;
        const at = key[planted](stage);
        await commands.multi().del(at).set(at, "planted").exec();
        const before = await digestOf(t.store);
        const error = await run(stage).then(
          () => undefined,
          (thrown: unknown) => thrown,
        );
        expect(error).toBeInstanceOf(Error);
        expect(await digestOf(t.store)).toEqual(before);
      });
    }
  }
});

test("each script works on the stage as it stands, so that the refusals above are the planted key's", async () => {
  for (const { run } of Object.values(SCRIPTS)) {
    const stage = await setStage();
    await using _t = stage.t;
    await run(stage);
  }
});

/** Scripts whose repetition is another act, and why that is right. */
const NOT_THE_SAME_AGAIN: Readonly<Record<string, string>> = {
  mqLeaseAcquire: "each lease is a new one, with a higher token: the holder goes by the answer that it heard",
};

describe("twice in a row is once", () => {
  const executed = new Set<string>();
  for (const [name, { run }] of Object.entries(SCRIPTS)) {
    test(name, async () => {
      const stage = await setStage();
      await using t = stage.t;
      const contents: { readonly script: string; readonly content: unknown }[] = [];
      sendTwice(t.store.redis.commands, {
        async onExecuted(script) {
          executed.add(script);
          if (script in NOT_THE_SAME_AGAIN) return;
          contents.push({ script, content: await contentOf(t.store) });
        },
      });
      await run(stage);
      for (let i = 0; i < contents.length; i += 2) expect(contents[i + 1]).toEqual(contents[i]!);
    });
  }

  test("no script of the queue is left out", () => {
    const left = scriptNames().filter((script) => script.startsWith("mq") && !executed.has(script));
    expect(left).toEqual([]);
  });
});
