/** The command line's view of the queue, as a person or a script uses it, on a Skein that runs. */

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import * as v from "valibot";
import { Bury, type ConnectedQueue, connectQueue, defineTopic } from "../../lib/mq/index.ts";
import { type PrivateSkein, startSkein } from "../../scripts/harness.ts";
import { runSkeinCommand } from "../support/command-line.ts";
import { eventually } from "../support/eventually.ts";

const shop = defineTopic("shop", { schema: v.strictObject({ n: v.number() }) });
let skein: PrivateSkein;
let queue: ConnectedQueue;
/** While set, the group `billing` buries what comes. */
let isBroken = true;
const handled: number[] = [];
let stopBilling: () => Promise<void>;

beforeAll(async () => {
  skein = await startSkein({ roles: ["gateway", "logic", "extlogic", "archive"] });
  queue = await connectQueue({ url: skein.redisUrl, member: "shop-1" });
  await queue.catalog.declareTopic("shop", {});
  const billing = queue.consume(shop, {
    ...{ group: "billing", mode: "ordered" },
    handle({ data }) {
      if (isBroken) throw new Bury(`no \u001b[31mprice for ${data.n}`);
      handled.push(data.n);
    },
  });
  await billing.start();
  stopBilling = () => billing.stop(AbortSignal.timeout(5_000));
});
afterAll(async () => {
  await stopBilling?.();
  await queue?.close();
  await skein?.stop();
});

const run = (...args: string[]) => runSkeinCommand(skein.dataDir, args);

/** What it printed as JSON. */
async function json(...args: string[]) {
  const { out, err, code } = await run(...args, "--json");
  expect([err, code]).toEqual(["", 0]);
  return JSON.parse(out);
}

/** The one line that a command failed with. */
async function failure(...args: string[]): Promise<string> {
  const { out, err, code } = await run(...args);
  expect([out, code]).toEqual(["", 1]);
  expect(err.trim().split("\n")).toHaveLength(1);
  return err.trim();
}

const billing = ["--topic", "shop", "--group", "billing"];

/** Publishes numbers that `billing` buries, and resolves to the ids of the messages once they are dead letters. */
async function bury(...numbers: number[]): Promise<string[]> {
  isBroken = true;
  const before = (await queue.describe(shop)).groups[0]?.deadLetters ?? 0;
  const results = await queue.publishMany(
    shop,
    numbers.map((n) => ({ type: "order.placed", key: "customer-7", data: { n } })),
  );
  await eventually(async () => {
    expect((await queue.describe(shop)).groups[0]!.deadLetters).toBe(before + numbers.length);
  });
  return results.map(({ id }) => id);
}

test("topics and groups tell of the product's and of the services' own", async () => {
  const { out } = await run("topics");
  for (const name of ["im.events", "im.push", "im.commands", "shop"]) expect(out).toContain(name);
  const all = await run("groups");
  expect(all.out).toMatch(/im\.events +delivery +ordered/);
  expect(all.out).toMatch(/shop +billing +ordered/);
  const own = await json("groups", "--topic", "shop");
  expect(own).toMatchObject([{ topic: "shop", group: "billing", mode: "ordered", lag: 0 }]);
  expect(await json("groups", "list", "--topic", "shop")).toMatchObject([{ group: "billing" }]);
  const webhook = { url: "https://example.com/hook", secret: "not-for-screens" };
  await queue.catalog.declareGroup("hooked", "service", { mode: "concurrent", maxAttempts: 5, webhook });
  const hooked = await run("groups", "--topic", "hooked", "--json");
  expect(JSON.parse(hooked.out)).toMatchObject([{ settings: { maxAttempts: 5, webhook: { url: webhook.url } } }]);
  expect(hooked.out).not.toContain("secret");
});

test("what is wrong is said in one line that names it", async () => {
  expect(await failure("dead-letters")).toContain("--topic is missing");
  expect(await failure("dead-letters", "list", "--topic", "shop")).toContain("--group is missing");
  expect(await failure("dead-letters", "--topic", "a:b", "--group", "g")).toContain("a:b");
  expect(await failure("dead-letters", "--topic", "shop", "--group", "biling")).toContain("it has billing");
  expect(await failure("dead-letters", ...billing, "--limit", "many")).toContain("--limit many");
  expect(await failure("dead-letters", ...billing, "--limit", "1000")).toContain("from 1 to 200");
  expect(await failure("dead-letters", ...billing, "--before", "yesterday")).toContain("--before yesterday");
  expect(await failure("dead-letters", "inspect", "0-1-0", ...billing)).toContain("no dead letter 0-1-0");
  expect(await failure("dead-letters", "progress", "none")).toContain("no redrive none");
  expect(await failure("dead-letters", "redrive", ...billing, "--ids", "x", "--key", "k")).toContain("leave out --key");
  expect(await failure("groups", "seek", ...billing, "--to", "nowhere")).toContain("--to nowhere");
  expect(await failure("groups", "seek", ...billing)).toContain("--to is missing");
  expect(await failure("trace", "a b")).toContain("white space");
});

describe("dead letters", () => {
  test("are listed, looked into and given back", async () => {
    const [first] = await bury(1, 2, 3);
    const { out } = await run("dead-letters", ...billing, "--limit", "2");
    expect(out).toMatch(/customer-7 +order\.placed +bury +1 +0 +Bury: no .\[31mprice for 3/);
    expect(out).not.toContain("\u001b");
    const next = /--before (\S+)/.exec(out)![1]!;
    const rest = await json("dead-letters", "list", ...billing, "--before", next);
    expect(rest).toMatchObject({ letters: [{ messageId: first, data: '{"n":1}' }] });
    const [{ id }] = rest.letters;
    const inspected = await run("dead-letters", "inspect", id, ...billing);
    expect(inspected.out).toContain('data         {"n":1}');
    expect(inspected.out).not.toContain("\u001b");

    const byError = ["--error", "price for 2"];
    const dry = await run("dead-letters", "redrive", ...billing, ...byError, "--dry-run");
    expect(dry.out).toContain("1 of 1 would be given back to shop/billing");
    expect(await failure("dead-letters", "redrive", ...billing, ...byError)).toContain("gives 1 dead letters back");
    isBroken = false;
    expect((await run("dead-letters", "redrive", ...billing, ...byError, "--yes")).out).toContain("1 of 1 were given");
    await eventually(() => expect(handled).toEqual([2]));
    const reply = await json("dead-letters", "redrive", ...billing, "--ids", `${id},0-1-0`, "--yes");
    expect(reply.results).toEqual([
      { id, result: "redriven" },
      { id: "0-1-0", result: "not_found" },
    ]);
    await eventually(() => expect(handled).toEqual([2, 1]));
  });

  test("at a rate, in the background, until cancelled", async () => {
    // Ten seconds' worth of them: none of what follows may come when all are through.
    await bury(11, 12, 13, 14, 15, 16, 17, 18, 19, 20);
    const started = await run("dead-letters", "redrive", ...billing, "--per-second", "1", "--yes");
    const id = /redrive (\S+) runs/.exec(started.out)![1]!;
    await queue.deadLetters.runRedrives();
    const { out } = await run("dead-letters", "progress", id);
    expect(out).toContain("group      shop/billing");
    expect(out).toContain("1 a second");
    expect((await run("dead-letters", "cancel", id)).out).toContain("is cancelled");
    expect(await failure("dead-letters", "cancel", id)).toContain("it is cancelled");
    expect(await json("dead-letters", "progress", id)).toMatchObject({ id, state: "cancelled" });
  });
});

test("a group is paused, resumed, set to another place, and dropped when its members have stopped", async () => {
  isBroken = false;
  expect((await run("groups", "pause", ...billing, "--reason", "prices are wrong")).out).toContain("is paused");
  expect((await run("groups", "--topic", "shop")).out).toContain("prices are wrong");
  expect((await run("groups", "resume", ...billing)).out).toContain("goes on");
  expect(await json("groups", "--topic", "shop")).not.toContainEqual(
    expect.objectContaining({ paused: expect.anything() }),
  );
  expect(await failure("groups", "seek", ...billing, "--to", "first")).toContain("--yes");
  handled.length = 0;
  expect((await run("groups", "seek", ...billing, "--to", "first", "--yes")).out).toContain("goes on at first");
  await eventually(() => expect(handled.length).toBeGreaterThan(4));

  expect(await failure("groups", "drop", ...billing)).toContain("forgets shop/billing");
  expect(await failure("groups", "drop", ...billing, "--yes")).toContain("alive");
  await stopBilling();
  await eventually(async () => expect((await run("groups", "drop", ...billing, "--yes")).out).toContain("is dropped"));
  expect(await failure("groups", "resume", ...billing)).toContain("no group");
});

test("a group that a webhook delivers is dropped with nothing to stop first", async () => {
  const webhook = { url: "https://shop.example/hook", secret: "0123456789abcdef" };
  await queue.catalog.declareGroup("called", "g", { mode: "ordered", webhook });
  const topic = await queue.catalog.topicOf("called");
  await eventually(async () => expect((await queue.describe(topic)).groups[0]?.owners[0]).toContain("extlogic"));
  expect((await run("groups", "drop", "--topic", "called", "--group", "g", "--yes")).out).toContain("is dropped");
  expect(await queue.catalog.webhooks()).not.toContainEqual(expect.objectContaining({ topic: "called" }));
  expect((await queue.describe(topic)).groups).toEqual([]);
});

test("a parked key is shown with its reason, and goes on in order when it is unparked", async () => {
  const parking = defineTopic("parking", { schema: v.strictObject({ n: v.number() }) });
  const seen: number[] = [];
  let isClosed = true;
  const group = queue.consume(parking, {
    ...{ group: "attendant", mode: "ordered", maxAttempts: 2, backoff: [1], onPoison: "park" },
    handle({ data }) {
      if (isClosed) throw new Error("closed");
      seen.push(data.n);
    },
  });
  await group.start();
  const attendant = ["--topic", "parking", "--group", "attendant"];
  try {
    await queue.publishMany(
      parking,
      [1, 2, 3].map((n) => ({ type: "car", key: "lot-5", data: { n } })),
    );
    await eventually(async () => expect((await queue.describe(parking)).groups[0]!.parkedKeys).toBe(1));
    expect((await run("groups", "aside", ...attendant)).out).toMatch(/lot-5 +parked +\S+ s +\d +\d +Error: closed/);
    expect(await json("groups", "list", "--topic", "parking")).toMatchObject([{ parkedKeys: 1 }]);
    isClosed = false;
    expect(await failure("groups", "unpark", ...attendant)).toContain("--key is missing");
    expect((await run("groups", "unpark", ...attendant, "--key", "lot-5")).out).toContain("goes on");
    await eventually(() => expect(seen).toEqual([1, 2, 3]));
    expect(await failure("groups", "unpark", ...attendant, "--key", "lot-5")).toContain("is not parked");
  } finally {
    await group.stop(AbortSignal.timeout(5_000));
  }
});

test("delayed messages are listed, moved, cancelled and sent", async () => {
  const reminders = defineTopic("reminders", { schema: v.unknown() });
  const hour = 3_600_000;
  const results = await queue.publishMany(
    reminders,
    [1, 2, 3].map((n) => ({ type: "due", key: "k", data: { n }, deliverAt: Date.now() + n * hour })),
  );
  const [first, second, third] = results.map(({ id }) => id) as [string, string, string];
  expect((await run("delayed", "--topic", "reminders")).out).toMatch(new RegExp(`${first} .* reminders +k +due`));
  const page = await json("delayed", "list", "--topic", "reminders", "--limit", "2");
  expect(page.messages.map(({ id }: { id: string }) => id)).toEqual([first, second]);
  const rest = await json("delayed", "--topic", "reminders", "--cursor", page.next);
  expect(rest.messages.map(({ id }: { id: string }) => id)).toEqual([third]);
  expect((await run("delayed", "inspect", first)).out).toContain('{"n":1}');

  expect(await failure("delayed", "move", first, "--at", "2099-01-01T00:00:00Z")).toContain("40 days ahead");
  expect((await run("delayed", "move", first, "--at", String(Date.now() + 5 * hour))).out).toContain("is due at");
  expect(await failure("delayed", "cancel", second)).toContain("add --yes");
  expect((await run("delayed", "cancel", second, "--yes")).out).toContain("is cancelled");
  expect((await run("delayed", "send-now", third)).out).toContain("is sent");
  expect(await failure("delayed", "send-now", third)).toContain("has been sent already");
  expect(await failure("delayed", "move", second, "--at", "5")).toContain("nothing waits");
  expect(await failure("delayed", "move", first)).toContain("--at is missing");
  expect(await failure("delayed", "inspect", "nobody's")).toContain("no delayed message");
  expect((await run("trace", first)).out).toContain("PENDING");
});

test("half messages are listed, and decided by an operator", async () => {
  const prepare = (n: number) =>
    queue.transactions.prepare(
      shop,
      { type: "order.placed", key: "customer-7", data: { n } },
      { producerGroup: "tills" },
    );
  const [kept, dropped] = [await prepare(21), await prepare(22)];
  expect((await run("half", "--state", "prepared")).out).toMatch(new RegExp(`${kept.id} +prepared +shop +tills`));
  expect((await json("half")).halves).toEqual([]);
  const first = await json("half", "list", "--state", "prepared", "--limit", "1");
  const second = await json("half", "list", "--state", "prepared", "--limit", "1", "--cursor", first.next);
  const listed = [...first.halves, ...second.halves].map(({ id }: { id: string }) => id);
  expect(listed.toSorted()).toEqual([kept.id, dropped.id].toSorted());
  expect((await run("half", "inspect", kept.id)).out).toContain('{"n":21}');
  expect((await run("half", "resume", kept.id)).out).toContain("tills is asked again");

  expect(await failure("half", "commit", kept.id)).toContain("add --yes");
  expect((await run("half", "commit", kept.id, "--yes")).out).toContain("is committed as entry");
  expect((await run("half", "rollback", dropped.id, "--yes")).out).toContain("is rolled_back");
  expect(await failure("half", "commit", dropped.id, "--yes")).toContain("rolled back");
  expect(await failure("half", "inspect", "nobody's")).toContain("nobody's");
  expect(await failure("half", "--state", "lost")).toContain("--state lost");
  const traced = await run("trace", kept.id);
  expect(traced.out).toContain("half");
  expect(traced.out).toContain("committed");
});

test("trace tells the life of a message, and of none that there is none", async () => {
  const late = defineTopic("late", { schema: v.unknown() });
  await queue.catalog.declareTopic("late", {});
  await queue.catalog.declareGroup("late", "reader", { mode: "concurrent" });
  const { id, entry } = await queue.publish(late, { type: "told", key: "k", data: {} });
  const { out, code } = await run("trace", id);
  expect(out).toContain(entry);
  expect(out).toMatch(/late\/reader +\S+ +unread/);
  expect(code).toBe(0);
  expect(await json("trace", id)).toMatchObject({ verdict: "found", commits: [{ topic: "late", entry }] });
  const none = await run("trace", "nobody");
  expect(none).toEqual({ out: "no message nobody was found\n", err: "", code: 1 });
});
