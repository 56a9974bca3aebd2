/** Groups with several members: sharing, hand-over, death, pause. */

import { expect, test } from "bun:test";
import type { Message } from "../../lib/mq/index.ts";
import { eventually } from "../support/eventually.ts";
import { byKey, type Numbered, openTestQueue, range, type TestQueue } from "../support/queue.ts";

const soft = () => AbortSignal.timeout(5_000);
const KEYS = range(1, 24).map((n) => `key${n}`);

interface Member extends AsyncDisposable {
  readonly process: ReturnType<typeof Bun.spawn>;
}

interface MemberOptions {
  readonly handlingMs?: number;
  readonly mode?: string;
  readonly leaseMs?: number;
}

async function spawnMember(
  t: TestQueue,
  name: string,
  { handlingMs = 0, mode = "ordered", leaseMs = 1_000 }: MemberOptions = {},
): Promise<Member> {
  const { url, prefix, partitions } = t.store;
  const script = new URL("../support/queue-member.ts", import.meta.url).pathname;
  const child = Bun.spawn(
    [process.execPath, script, url, prefix, String(partitions), name, mode, String(leaseMs), String(handlingMs)],
    { stdout: "pipe", stderr: "inherit" },
  );
  const reader = child.stdout.getReader();
  await reader.read();
  reader.releaseLock();
  return {
    process: child,
    async [Symbol.asyncDispose]() {
      child.kill("SIGKILL");
      await child.exited;
    },
  };
}

interface Seen {
  readonly member: string;
  readonly key: string;
  readonly n: number;
  readonly token: number;
}

async function seenBy(t: TestQueue): Promise<Seen[]> {
  const lines = await t.store.redis.commands.lrange(`${t.store.prefix}:seen`, 0, -1);
  return lines.map((line) => {
    const [member = "", key = "", n, token] = line.split(" ");
    return { member, key, n: Number(n), token: Number(token) };
  });
}

/** Per key: every number, never one before its predecessor was seen, tokens never falling. */
function expectOrder(seen: readonly Seen[], upTo: number): void {
  for (const key of new Set(seen.map((each) => each.key))) {
    const ofKey = seen.filter((each) => each.key === key);
    let highest = 0;
    let token = 0;
    for (const each of ofKey) {
      expect(each.n).toBeLessThanOrEqual(highest + 1);
      highest = Math.max(highest, each.n);
      expect(each.token).toBeGreaterThanOrEqual(token);
      token = each.token;
    }
    expect(highest).toBe(upTo);
  }
}

test("members share the partitions evenly; one that stops hands its share over at once, no gap, no overlap", async () => {
  await using t = await openTestQueue("mq-members", { partitions: 8 });
  const seen: (Message<Numbered> & { by?: string })[] = [];
  const by: Record<string, number> = {};
  const consume = (name: string) =>
    t.member(name).consume(t.topic, {
      ...{ group: "g", mode: "ordered" },
      async handle(message) {
        await Bun.sleep(1);
        seen.push(message);
        by[name] = (by[name] ?? 0) + 1;
      },
    });
  const owners = async () => (await t.queue.describe(t.topic)).groups[0]!.owners;
  const count = async (name: string) => (await owners()).filter((owner) => owner === name).length;
  const a = await t.run(consume("a"));
  expect(await count("a")).toBe(8);
  const publishing = (async () => {
    for (let n = 1; n <= 60; n++) {
      await Promise.all(KEYS.map((key) => t.publish(key, n, n)));
      await Bun.sleep(20);
    }
  })();
  await t.run(consume("b"));
  await eventually(async () => expect([await count("a"), await count("b")]).toEqual([4, 4]));
  await t.run(consume("c"));
  await eventually(async () => expect((await Promise.all(["a", "b", "c"].map(count))).sort()).toEqual([2, 3, 3]));
  const stoppedAt = performance.now();
  await a.stop(soft());
  await eventually(async () => expect([await count("b"), await count("c")]).toEqual([4, 4]));
  expect(performance.now() - stoppedAt).toBeLessThan(10_000);
  await publishing;
  await eventually(() => expect(seen.length).toBe(KEYS.length * 60));
  expect(byKey(seen)).toEqual(Object.fromEntries(KEYS.map((key) => [key, range(1, 60)])));
  expect(Object.keys(by).sort()).toEqual(["a", "b", "c"]);
  expect((await t.store.metrics.leasesLost.get()).values).toEqual([]);
});

test("a member killed with -9 is replaced after its lease; nothing is missed and no key is out of order", async () => {
  await using t = await openTestQueue("mq-members");
  await using a = await spawnMember(t, "a", { handlingMs: 2 });
  await using _b = await spawnMember(t, "b", { handlingMs: 2 });
  await eventually(async () =>
    expect((await t.queue.describe(t.topic)).groups[0]!.owners.toSorted()).toEqual([..."aabb"]),
  );
  for (const key of KEYS) await t.publish(key, 1, 20);
  a.process.kill("SIGKILL");
  for (const key of KEYS) await t.publish(key, 21, 40);
  await eventually(async () => expect((await t.queue.describe(t.topic)).groups[0]!.lag).toBe(0));
  expectOrder(await seenBy(t), 40);
});

test("a member paused past its lease is fenced: its commits are refused and its successors keep the order", async () => {
  await using t = await openTestQueue("mq-members");
  await using a = await spawnMember(t, "a", { handlingMs: 2 });
  for (const key of KEYS) await t.publish(key, 1, 100);
  await eventually(async () => expect((await seenBy(t)).length).toBeGreaterThan(50));
  a.process.kill("SIGSTOP");
  await using _b = await spawnMember(t, "b");
  await eventually(async () => expect((await t.queue.describe(t.topic)).groups[0]!.lag).toBe(0));
  const before = await seenBy(t);
  const tokens = Math.max(...before.filter(({ member }) => member === "a").map(({ token }) => token));
  expect(before.filter(({ member }) => member === "b").every(({ token }) => token > tokens)).toBe(true);
  a.process.kill("SIGCONT");
  for (const key of KEYS) await t.publish(key, 101, 120);
  await eventually(async () => {
    const highest = new Map((await seenBy(t)).map(({ key, n }) => [key, n]));
    expect([...highest.values()]).toEqual(KEYS.map(() => 120));
  });
  expectOrder(await seenBy(t), 120);
});

/** A life ends by the message that kills, or with its burial: not by a clock, for a member that is slow has no part in either. */
async function diesOrBuries(t: TestQueue, { process }: Member): Promise<void> {
  await eventually(async () => {
    const isDead = process.exitCode !== null || process.signalCode !== null;
    if (!isDead) expect(await t.deadLetters("g")).not.toEqual([]);
  });
}

/** Each life takes its own leases back at once. */
const LIFE = { leaseMs: 30_000 } as const;

test("a message that kills its members is found, buried, and the rest is handled", async () => {
  await using t = await openTestQueue("mq-members", { partitions: 1 });
  await t.publish("k", 1, 3);
  await t.publish("deadly", 1, 1);
  await t.publish("k", 4, 6);
  for (let life = 0; life < 8 && (await t.deadLetters("g")).length === 0; life++) {
    await using member = await spawnMember(t, "a", LIFE);
    await diesOrBuries(t, member);
  }
  expect(await t.deadLetters("g")).toMatchObject([{ k: "deadly", reason: "poison" }]);
  const seen = await seenBy(t);
  // Three times among others until it is under suspicion, three times alone.
  expect(seen.filter(({ key }) => key === "deadly").length).toBeLessThanOrEqual(6);
  await using _last = await spawnMember(t, "a", LIFE);
  await eventually(async () => expect((await t.queue.describe(t.topic)).groups[0]!.lag).toBe(0));
  expectOrder(
    (await seenBy(t)).filter(({ key }) => key === "k"),
    6,
  );
});

test.each(["ordered", "concurrent"])(
  "of a %s group it takes none to the dead letters that was in hand beside it",
  async (mode) => {
    await using t = await openTestQueue("mq-members", { partitions: 8 });
    const others = KEYS.slice(0, 16);
    for (const key of others) await t.publish(key, 1, 2);
    await t.publish("deadly", 1, 1);
    for (let life = 0; life < 20 && (await t.deadLetters("g")).length === 0; life++) {
      await using member = await spawnMember(t, "a", { ...LIFE, mode, handlingMs: 10 });
      await diesOrBuries(t, member);
    }
    await using _last = await spawnMember(t, "a", { ...LIFE, mode });
    await eventually(async () => expect((await t.queue.describe(t.topic)).groups[0]!.lag).toBe(0));
    expect(await t.deadLetters("g")).toMatchObject([{ k: "deadly", reason: "poison" }]);
    const seen = new Set((await seenBy(t)).map(({ key, n }) => `${key} ${n}`));
    expect(others.flatMap((key) => [`${key} 1`, `${key} 2`]).filter((name) => !seen.has(name))).toEqual([]);
  },
);
