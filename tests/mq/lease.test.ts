import { expect, test } from "bun:test";
import { systemClock } from "../../lib/clock.ts";
import { declare } from "../../lib/mq/consumer.ts";
import { registerGroup } from "../../lib/mq/group.ts";
import type { ConsumeOptions } from "../../lib/mq/index.ts";
import { acquireLease, type Grant, type LeaseSite, PartitionLease } from "../../lib/mq/lease.ts";
import { quotaOf } from "../../lib/mq/membership.ts";
import { silentLog } from "../../lib/observability/index.ts";
import { eventually } from "../support/eventually.ts";
import { letterOf, type Numbered, openTestQueue, range, type TestQueue } from "../support/queue.ts";

/** Of leases whose end is waited for. */
const BRIEF_MS = 1_000;
/** Of leases that must not end while the test's process stands still. */
const LONG_MS = 60_000;

function siteOf(t: TestQueue, member: string, session: string, leaseMs = LONG_MS): LeaseSite {
  const { redis, keys, metrics } = t.store;
  const options: ConsumeOptions<Numbered> = { group: "g", mode: "ordered", leaseMs, handle: () => undefined };
  return {
    context: { redis, keys, metrics, clock: systemClock, log: silentLog, member },
    topic: "t",
    declaration: declare(options) as ReturnType<typeof declare<unknown>>,
    partition: 0,
    session,
  };
}

async function take(site: LeaseSite): Promise<Grant> {
  const grant = await acquireLease(site);
  if (typeof grant === "string") throw new Error(grant);
  return grant;
}

const at = (checkpoint: string) => ({ progress: () => ({ checkpoint, read: 1, open: [] }) });

async function registered(name: string): Promise<TestQueue> {
  const t = await openTestQueue(name, { partitions: 1 });
  const { context, declaration } = siteOf(t, "m", "1");
  await registerGroup(context, "t", declaration, 0, "first");
  return t;
}

test("a lease is one member's; it is free after its time, with a higher token", async () => {
  await using t = await registered("mq-lease");
  await take(siteOf(t, "a", "1"));
  expect(await acquireLease(siteOf(t, "b", "2"))).toBe("held");
  const first = await take(siteOf(t, "a", "1", BRIEF_MS));
  const { until } = await t.lease("g", "k");
  const second = await eventually(() => take(siteOf(t, "b", "2")));
  expect(second.token).toBeGreaterThan(first.token);
  // A token is the time, in µs, when it was granted.
  expect(second.token).toBeGreaterThanOrEqual(Number(until) * 1_000);
  expect(second).toMatchObject({ previousOwner: "a" });
});

test("a holder that vanished counts against what it may have had in hand, and not when there was nothing", async () => {
  await using t = await registered("mq-lease");
  const { context } = siteOf(t, "m", "1");
  await take(siteOf(t, "a", "1"));
  expect(await take(siteOf(t, "a", "2"))).toMatchObject({ losses: 0 });
  await context.redis.commands.xadd(context.keys.topic("t", 0), "*", "i t k  ", "{}");
  expect(await take(siteOf(t, "a", "3"))).toMatchObject({ losses: 1 });
  expect(await take(siteOf(t, "a", "4"))).toMatchObject({ losses: 2 });
});

test("a holder that was away past its lease is refused, told by its signal, and changes nothing", async () => {
  await using t = await registered("mq-lease");
  let lost = 0;
  const site = siteOf(t, "a", "1", BRIEF_MS);
  const zombie = new PartitionLease(site, { ...(await take(site)), askedAt: performance.now() + 60_000 }, () => {
    lost += 1;
  });
  zombie.follow(at("5-0"));
  const heir = await eventually(() => take(siteOf(t, "b", "2")));
  await zombie.commit();
  expect(zombie.signal.reason).toMatchObject({ code: "LEASE_LOST" });
  expect([zombie.isHeld(), lost]).toEqual([false, 1]);
  expect(await t.lease("g", "k")).toMatchObject({ owner: "b", token: String(heir.token), checkpoint: "0-0" });
  await zombie.release();
  expect(await t.lease("g", "k")).toMatchObject({ owner: "b" });
});

test("a holder that could not renew in time stops by itself, before anyone else takes over", async () => {
  await using t = await registered("mq-lease");
  const site = siteOf(t, "a", "1", BRIEF_MS);
  const lease = new PartitionLease(site, await take(site), () => undefined);
  await eventually(() => expect(lease.isHeld()).toBe(false));
  expect(lease.signal.reason).toMatchObject({ code: "LEASE_LOST" });
});

test("the same member takes its own lease back at once after a restart; its older life cannot", async () => {
  await using t = await registered("mq-lease");
  const old = await take(siteOf(t, "a", "1"));
  const young = await take(siteOf(t, "a", "2"));
  expect(young.token).toBeGreaterThan(old.token);
  expect(await acquireLease(siteOf(t, "a", "1"))).toBe("held");
});

test("commit and release twice have the effect of once, and a release frees at once", async () => {
  await using t = await registered("mq-lease");
  const site = siteOf(t, "a", "1");
  const grant = await take(site);
  const [lease, copy] = [0, 1].map(() => new PartitionLease(site, grant, () => undefined)) as [
    PartitionLease,
    PartitionLease,
  ];
  const letter = letterOf("5-0");
  for (const each of [lease, copy]) {
    each.follow(at("6-0"));
    each.changes.bury(letter);
    expect(await each.commit()).toBe(true);
  }
  expect(await t.deadLetters("g")).toHaveLength(1);
  await lease.release();
  const after = await t.lease("g", "k");
  await copy.release();
  expect(await t.lease("g", "k")).toEqual(after);
  expect(await take(siteOf(t, "b", "2"))).toMatchObject({
    previousOwner: "",
    losses: 0,
    progress: { checkpoint: "6-0" },
  });
});

test("dead letters wait for the commit that covers their entry", async () => {
  await using t = await registered("mq-lease");
  const site = siteOf(t, "a", "1");
  const lease = new PartitionLease(site, await take(site), () => undefined);
  let checkpoint = "0-0";
  lease.follow({ progress: () => ({ checkpoint, read: 0, open: [] }) });
  for (const n of range(1, 40)) {
    lease.changes.bury(letterOf(`${n}-0`));
  }
  await lease.commit();
  expect(await t.deadLetters("g")).toHaveLength(0);
  checkpoint = "30-0";
  await lease.commit();
  expect((await t.deadLetters("g")).map(({ entry }) => entry)).toEqual(range(1, 30).map((n) => `${n}-0`));
  checkpoint = "40-0";
  await lease.release();
  expect(await t.deadLetters("g")).toHaveLength(40);
  expect(await t.lease("g", "k")).toMatchObject({ owner: "", checkpoint: "40-0", open: "" });
});

test("tokens go on rising when the lease was lost with all else", async () => {
  await using t = await registered("mq-lease");
  const before = await take(siteOf(t, "a", "1"));
  const { context, declaration } = siteOf(t, "m", "1");
  await context.redis.commands.del(context.keys.lease("t", 0, "g"), context.keys.groups("t", 0));
  expect(await acquireLease(siteOf(t, "b", "2"))).toBe("unregistered");
  await registerGroup(context, "t", declaration, 0, "first");
  expect((await take(siteOf(t, "b", "2"))).token).toBeGreaterThan(before.token);
});

test("shares are even and add up to all partitions", () => {
  for (const live of [["a"], ["a", "b"], ["a", "b", "c"], range(1, 20).map(String)]) {
    const shares = live.map((member) => quotaOf(member, live, 16));
    expect(shares.reduce((a, b) => a + b)).toBe(16);
    expect(Math.max(...shares) - Math.min(...shares)).toBeLessThanOrEqual(1);
  }
});
