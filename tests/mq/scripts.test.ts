/**
 * Every script with a key of a wrong type planted at each of its keys: it refuses and the keyspace is unchanged. And every script
 * sent twice in a row: the second time changes nothing.
 */

import { describe, expect, spyOn, test } from "bun:test";
import { systemClock } from "../../lib/clock.ts";
import { ackWith } from "../../lib/mq/ack-with.ts";
import { NO_ATTEMPTS } from "../../lib/mq/attempts.ts";
import { type Declaration, declare, type QueueContext } from "../../lib/mq/consumer.ts";
import { DeliveryLeases, Hold } from "../../lib/mq/delivery-lease.ts";
import { type EffectInput, formatEffect } from "../../lib/mq/effect.ts";
import { searchEntries } from "../../lib/mq/entry-search.ts";
import { Firing } from "../../lib/mq/firing.ts";
import { registerGroup } from "../../lib/mq/group.ts";
import type { Queue } from "../../lib/mq/index.ts";
import { acquireLease, type Grant, PartitionLease } from "../../lib/mq/lease.ts";
import { scanLetters } from "../../lib/mq/letter-scan.ts";
import { Membership } from "../../lib/mq/membership.ts";
import { Delivery, type StreamEntry } from "../../lib/mq/message.ts";
import { OrderedOutlet } from "../../lib/mq/pull-ordered.ts";
import type { Handed } from "../../lib/mq/pull-outlet.ts";
import { PullShare, releasePartition } from "../../lib/mq/pull-share.ts";
import type { PullRef } from "../../lib/mq/pull-token.ts";
import { reconcile } from "../../lib/mq/reconcile.ts";
import { cancelRedrive, runRedrives, startRedrive } from "../../lib/mq/redrive-runner.ts";
import { SideQueue } from "../../lib/mq/side-queue.ts";
import { createTransactions } from "../../lib/mq/transaction.ts";
import { silentLog } from "../../lib/observability/index.ts";
import { scriptNames } from "../../lib/redis/script.ts";
import { contentOf } from "../support/content.ts";
import { eventually } from "../support/eventually.ts";
import { pullGroup } from "../support/pull.ts";
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
  /** A delayed message that is due and waits for its firing. */
  readonly delayed: string;
  /** Of the ordered group, with key `long` in hand from aside, and `due` and `parked` there. */
  readonly lease: PartitionLease;
  readonly side: SideQueue<unknown>;
  /** Of an ordered group whose partition services hold, with its first message out. */
  readonly outlet: OrderedOutlet<unknown>;
  readonly out: PullRef;
}

const LEASE_MS = 10_000;
/** Of all else that is held: no lease ends within a test. */
const LONG_LEASE_MS = 60_000;

/** One partition with both kinds of group, deliveries in hand, a retry that is due, a dead letter, half messages, and keys aside. */
async function setStage(): Promise<Stage> {
  const t = await openTestQueue("mq-scripts", { partitions: 1 });
  const { redis, keys, metrics } = t.store;
  const context: QueueContext = { redis, keys, metrics, clock: systemClock, log: silentLog, member: "m" };
  const of = (mode: "ordered" | "concurrent") =>
    declare<unknown>({ group: mode, mode, leaseMs: LONG_LEASE_MS, handle: () => undefined });
  const [ordered, concurrent] = [of("ordered"), of("concurrent")];
  for (const declaration of [ordered, concurrent]) await registerGroup(context, "t", declaration, 0, "first");
  await t.publish("k", 1, 300);
  // By another member, so that the one under test has nothing of it in memory.
  await t.member("other").catalog.declareTopic("t", {});
  await t.queue.publish(t.topic, { type: "a", key: "k", data: { n: 301 }, dedupId: "known" });
  const { lease, side } = await setAside(t, context, ordered);
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
  const pulled = await pullOne(t, context);
  const delayed = await delayMessages(t);
  const held = { leases, holds: holds.slice(0, 2), lease, side };
  return { t, context, ordered, concurrent, halves, delayed, ...held, ...pulled };
}

async function pullOne(t: TestQueue, context: QueueContext) {
  const group = pullGroup({ group: "pulled", mode: "ordered", leaseMs: LONG_LEASE_MS });
  await registerGroup(context, "t", group, 0, "first");
  const outlet = new OrderedOutlet<unknown>(context, t.topic, group, new PullShare(context, "t", "pulled"));
  await outlet.open();
  const [{ delivery, fence }] = (await outlet.take(0, 1, 1)).handed as [Handed<unknown>];
  return { outlet, out: { partition: 0, entry: delivery.entry, fence, key: delivery.key } };
}

async function delayMessages(t: TestQueue): Promise<string> {
  const { key } = t.queue.own("k", "reads");
  await t.store.redis.commands.hset(key, "ann", "1");
  const input = { type: "a", key: "k", data: { n: 1 }, deliverAt: 1 };
  await t.queue.publish(t.topic, input);
  const condition = { kind: "fieldBelow", key, field: "ann", word: 1, limit: 5 } as const;
  return (await t.queue.publish(t.topic, { ...input, condition })).id;
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

/** A message of a key as it would lie in the stream. */
function messageOf(t: TestQueue, name: string, entry: string): Delivery<unknown> {
  return new Delivery<unknown>(t.topic, 0, [entry, [`id t ${name}  `, "{}"]]);
}

async function setAside(t: TestQueue, context: QueueContext, declaration: Declaration<unknown>) {
  const site = { context, topic: "t", declaration, partition: 0, session: "1" };
  const lease = new PartitionLease(site, (await acquireLease(site)) as Grant, () => undefined);
  const side = new SideQueue<unknown>({ site, topic: t.topic, lease, start: { keys: [], messages: 0, bytes: 0 } });
  const turn = { failed: 1, losses: 0, firstFailureMs: 1, history: [[1, "m", "no"]], waitMs: 0 } as const;
  lease.follow({ progress: () => ({ checkpoint: "100-0", read: 1, open: [] }) });
  const long = Array.from({ length: 12 }, (_, i) => messageOf(t, "long", `${i + 1}-0`));
  side.put("long", long, { ...turn, state: "ready" });
  await lease.commit();
  await side.take();
  lease.follow({ progress: () => ({ checkpoint: "200-0", read: 2, open: [] }) });
  side.put("due", [messageOf(t, "due", "101-0")], { ...turn, state: "ready" });
  side.put("parked", [messageOf(t, "parked", "102-0")], { ...turn, state: "parked" });
  await lease.commit();
  return { lease, side };
}

/** Something of everything that a consume transaction may do. */
function effectOn(t: TestQueue): EffectInput {
  const input = { type: "a", key: "k", data: { n: 1 } };
  return {
    writes: [["HSET", "state", "n", 1]],
    publish: [
      { topic: t.topic, input: { ...input, dedupId: "new" } },
      { topic: t.topic, input: { ...input, deliverAt: Date.now() + 60_000 } },
    ],
  };
}

const redriveAll = { topic: "t", group: "concurrent", perSecond: 1_000, selection: { filter: {} } };

const key = {
  stream: ({ t }: Stage) => t.store.keys.topic("t", 0),
  even: ({ t }: Stage) => t.store.keys.published("t", 0, "even"),
  odd: ({ t }: Stage) => t.store.keys.published("t", 0, "odd"),
  groups: ({ t }: Stage) => t.store.keys.groups("t", 0),
  orderedLease: ({ t }: Stage) => t.store.keys.lease("t", 0, "ordered"),
  orderedDead: ({ t }: Stage) => t.store.keys.deadLetters("t", 0, "ordered"),
  orderedAttempts: ({ t }: Stage) => t.store.keys.attempts("t", 0, "ordered"),
  aside: ({ t }: Stage) => t.store.keys.aside("t", 0, "ordered"),
  asideDue: ({ t }: Stage) => t.store.keys.asideDue("t", 0, "ordered"),
  side: ({ t }: Stage) => t.store.keys.side("t", 0, "ordered"),
  sideOrder: ({ t }: Stage) => t.store.keys.sideOrder("t", 0, "ordered"),
  lease: ({ t }: Stage) => t.store.keys.lease("t", 0, "concurrent"),
  retries: ({ t }: Stage) => t.store.keys.retries("t", 0, "concurrent"),
  attempts: ({ t }: Stage) => t.store.keys.attempts("t", 0, "concurrent"),
  dead: ({ t }: Stage) => t.store.keys.deadLetters("t", 0, "concurrent"),
  pulledLease: ({ t }: Stage) => t.store.keys.lease("t", 0, "pulled"),
  pulledDead: ({ t }: Stage) => t.store.keys.deadLetters("t", 0, "pulled"),
  pulledAttempts: ({ t }: Stage) => t.store.keys.attempts("t", 0, "pulled"),
  pulledAside: ({ t }: Stage) => t.store.keys.aside("t", 0, "pulled"),
  pulledDue: ({ t }: Stage) => t.store.keys.asideDue("t", 0, "pulled"),
  pulledSide: ({ t }: Stage) => t.store.keys.side("t", 0, "pulled"),
  pulledOrder: ({ t }: Stage) => t.store.keys.sideOrder("t", 0, "pulled"),
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
  delayed: ({ t }: Stage) => t.store.keys.delayed(0),
  delayedDue: ({ t }: Stage) => t.store.keys.delayedDue(0),
  delayedEnded: ({ t }: Stage) => t.store.keys.delayedEnded(0),
  relay: ({ t }: Stage) => t.store.keys.topic("im.relay", 0),
  reads: ({ t }: Stage) => t.queue.own("k", "reads").key,
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
  "publish-with later": {
    keys: ["stream", "even", "odd", "groups", "delayed", "delayedDue", "delayedEnded", "relay", "own"],
    run: ({ t }) => {
      const input = { type: "a", key: "k", data: { n: 1 }, dedupId: "new", deliverAt: Date.now() + 60_000 };
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
  "delay-publish": {
    keys: ["stream", "even", "odd", "groups", "delayed", "delayedDue", "delayedEnded", "relay"],
    run({ t }) {
      const input = { type: "a", key: "k", data: { n: 1 } };
      const waits = { ...input, deliverAt: Date.now() + 60_000, dedupId: "new" };
      return t.queue.publishMany(t.topic, [{ ...input, deliverAt: 1 }, waits]);
    },
  },
  "delay-fire": {
    keys: ["delayed", "delayedDue", "delayedEnded", "stream", "reads"],
    async run({ context, delayed }) {
      const outcome = await new Firing(context).fire(delayed);
      if (outcome.kind === "failed") throw new Error(outcome.error);
    },
  },
  "delay-cancel": {
    keys: ["delayed", "delayedDue", "delayedEnded"],
    run: ({ t, delayed }) => t.queue.delayed.cancel(delayed),
  },
  "delay-move": {
    keys: ["delayed", "delayedDue", "relay"],
    run: ({ t, delayed }) => t.queue.delayed.move(delayed, Date.now() + 60_000),
  },
  "delay-list": { keys: ["delayed", "delayedDue"], run: ({ t }) => t.queue.delayed.list() },
  "delay-sweep": {
    keys: ["delayed", "delayedEnded"],
    run({ context }) {
      const restore = async () => undefined;
      return reconcile({ context, firing: new Firing(context), now: Date.now, restore });
    },
  },
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
    keys: ["orderedLease", "orderedDead", "orderedAttempts", "aside", "asideDue", "side", "sideOrder"],
    async run({ t, lease, side }) {
      lease.follow({ progress: () => ({ checkpoint: "9999999999999-0", read: 5, open: [] }) });
      lease.changes.bury(letterOf("501-0"));
      lease.changes.note("502-0", { ...NO_ATTEMPTS, failed: 1 });
      side.put("new", [messageOf(t, "new", "503-0")]);
      side.done("long");
      side.drop("long", letterOf("2-0"));
      side.back("long", { ...NO_ATTEMPTS, state: "parked", waitMs: 0 });
      if (!(await lease.commit())) throw new Error("not committed");
    },
  },
  "lease-commit with an effect": {
    keys: ["orderedLease", "stream", "even", "odd", "groups", "delayed", "delayedDue", "delayedEnded", "relay"],
    async run({ t, context, ordered, lease }) {
      const ends = { onEnding: () => undefined, onEnded: () => undefined };
      const effect = formatEffect(context, 0, effectOn(t), ordered.publishing);
      lease.follow({ progress: () => ({ checkpoint: "9999999999999-0", read: 5, open: [] }) });
      void lease.changes.end(effect, { ...ends, entry: "501-0", key: undefined });
      void lease.changes.end(effect, { ...ends, entry: "1-0", key: "long" });
      if (!(await lease.commit())) throw new Error("not committed");
    },
  },
  "side-take": {
    keys: ["orderedLease", "aside", "asideDue", "side", "sideOrder"],
    async run({ side }) {
      await side.take();
      if (!side.isInHand("due")) throw new Error("not taken");
    },
  },
  "side-read": {
    keys: ["side", "sideOrder"],
    async run({ t, side }) {
      type Reading = Record<"mqSideRead", (...args: unknown[]) => Promise<unknown>>;
      const reading = spyOn(t.store.redis.commands as unknown as Reading, "mqSideRead");
      side.done("long");
      // The queue tries again later what is refused.
      await reading.mock.results[0]!.value;
      await eventually(() => expect(side.queueOf("long")).toHaveLength(11));
    },
  },
  unpark: {
    keys: ["aside", "asideDue", "side", "sideOrder"],
    run: ({ t }) => t.queue.aside.unpark(t.topic, "ordered", "parked"),
  },
  "member-beat": {
    keys: ["members", "control"],
    run: ({ context }) => new Membership(context, "t", "ordered", 1_000).look(),
  },
  claim: { keys: ["stream", "retries", "attempts", "lease"], run: ({ leases }) => leases.claim(0, 10) },
  ack: { keys: ["stream", "attempts", "lease"], run: ({ leases, holds }) => leases.ack(0, holds) },
  "ack, nothing claimed": {
    keys: ["stream", "attempts", "lease"],
    run: ({ leases, holds }) =>
      leases.ack(
        0,
        holds.map(({ delivery }) => new Hold(delivery, 1, NO_ATTEMPTS, 0, "0")),
      ),
  },
  "ack-with": {
    keys: ["stream", "attempts", "even", "odd", "groups", "delayed", "delayedDue", "delayedEnded", "relay", "own"],
    run: ({ t, context, concurrent, leases, holds }) =>
      ackWith({ context, declaration: concurrent, leases }, holds, effectOn(t)),
  },
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
  renew: { keys: ["stream", "retries"], run: ({ leases, holds }) => leases.renew(0, holds) },
  disown: { keys: ["stream", "retries", "attempts", "lease"], run: ({ leases }) => leases.disown(0, 10) },
  "consumers-drop": { keys: ["stream"], run: ({ leases }) => leases.dropConsumers(0, 0, 10) },
  receive: {
    keys: ["stream", "groups", "retries", "attempts", "lease"],
    run: ({ context }) => new DeliveryLeases(context, "t", "concurrent", 1_000, "#pull").receive(0, 10, 1_000_000),
  },
  "receive-ordered": {
    keys: ["stream", "pulledLease", "pulledAttempts", "pulledAside", "pulledDue", "pulledSide", "pulledOrder"],
    run: ({ outlet }) => outlet.take(0, 10, 1_000_000),
  },
  "answer-ordered": {
    keys: ["pulledLease", "pulledDead", "pulledAside", "pulledDue", "pulledSide", "pulledOrder"],
    run: ({ outlet, out }) => outlet.ack([out]),
  },
  "pull-release": { keys: ["pulledLease"], run: ({ context }) => releasePartition(context, "t", "pulled", 0) },
  "seek ordered": {
    keys: ["stream", "groups", "orderedLease", "orderedAttempts", "aside", "asideDue", "side", "sideOrder"],
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
  "errand-claim": { keys: ["runningRedrive"], run: ({ context }) => runRedrives(context) },
  "errand-note": { keys: ["redrives", "runningRedrive"], run: ({ context }) => cancelRedrive(context, "running") },
  count: { keys: ["stream"], run: ({ t }) => t.queue.describe(t.topic) },
  trim: {
    keys: ["stream", "groups", "orderedLease", "lease"],
    run: ({ t }) => t.queue.trim({ name: "t", retentionMs: 1, lengthMax: 1, backlogMax: 10, dedupMs: 1 }),
  },
  expunge: {
    keys: ["stream", "groups", "orderedLease"],
    run: ({ t }) => t.queue.expunge(t.topic, { key: "nobody", texts: ['"n":1'] }),
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
  mqReceive: "it asks for what is next; a receive under an attempt id has its reply kept and repeated instead",
  mqReceiveOrdered: "likewise",
};

describe("twice in a row is once", () => {
  const executed = new Set<string>();
  for (const [name, { run }] of Object.entries(SCRIPTS)) {
    test(name, async () => {
      const stage = await setStage();
      await using t = stage.t;
      const contents: { readonly script: string; readonly content: unknown }[] = [];
      sendTwice(t.store.redis.commands, {
        isHandOut: () => true,
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
