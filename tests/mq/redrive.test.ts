/** Redriving: back to the same group alone, at the tail, at most three times, each once, in the call or in the background. */

import { describe, expect, test } from "bun:test";
import { systemClock } from "../../lib/clock.ts";
import { Bury, type Message, openQueue, type Queue, type RedriveSelection } from "../../lib/mq/index.ts";
import { silentLog } from "../../lib/observability/index.ts";
import { type PlantedLetter, plantLetters } from "../support/dead-letters.ts";
import { eventually } from "../support/eventually.ts";
import { digestOf, type Numbered, openTestQueue, range, type TestQueue } from "../support/queue.ts";

/** Everything in the topic's streams: the numbers, and what stands before their headers. */
async function entriesOf({ store }: TestQueue) {
  const { redis, keys } = store;
  const streams = await Promise.all(
    range(0, keys.partitions - 1).map((partition) => redis.commands.xrange(keys.topic("t", partition), "-", "+")),
  );
  return streams.flat().map(([, [header = "", data = "{}"]]) => ({
    n: (JSON.parse(data) as Numbered).n,
    attributes: header.startsWith("@") ? header.slice(1, header.indexOf(" ")) : "",
  }));
}

const numbersOf = async (t: TestQueue) => (await entriesOf(t)).map(({ n }) => n).sort((a, b) => a - b);

/** Letters 1..count over the partitions, of which the group buried letter n at ms n. */
function planted(count: number, letter: (n: number) => Partial<PlantedLetter> = () => ({})): PlantedLetter[] {
  return range(1, count).map((n) => ({ partition: n % 4, at: `${n}-0`, n, ...letter(n) }));
}

const all: RedriveSelection = { filter: {} };

/** Runs steps until the redrive has ended. */
async function runToEnd(queue: Queue, id: string) {
  await eventually(async () => {
    await queue.deadLetters.runRedrives();
    expect((await queue.deadLetters.redriveStatus(id))?.state).not.toBe("running");
  });
  return (await queue.deadLetters.redriveStatus(id))!;
}

describe("in the call", () => {
  test("a letter comes back as the same message, once, and is gone from the dead letters", async () => {
    await using t = await openTestQueue("mq-redrive");
    const seen: Message<Numbered>[] = [];
    await t.run(
      t.queue.consume(t.topic, {
        ...{ group: "g", mode: "concurrent" },
        handle(message) {
          seen.push(message);
          if (seen.length === 1) throw new Bury("not yet");
        },
      }),
    );
    const { id } = await t.queue.publish(t.topic, {
      ...{ type: "numbered", key: "k", data: { n: 7 }, tag: "vip", sequence: 41, properties: { a: "b" } },
    });
    await eventually(async () => expect(await t.deadLetters("g")).toHaveLength(1));
    const [letter] = (await t.queue.deadLetters.list("t", "g")).letters;
    const ids = ["0-1-0", letter!.id];
    expect(await t.queue.deadLetters.redrive("t", "g", { ids })).toEqual({
      matched: 2,
      results: [
        { id: "0-1-0", result: "not_found" },
        { id: letter!.id, result: "redriven" },
      ],
      redrive: undefined,
    });
    await eventually(() => expect(seen).toHaveLength(2));
    const [first, second] = seen;
    expect(second).toMatchObject({
      ...{ id, key: "k", type: "numbered", tag: "vip", sequence: 41, originSequence: "41", redrives: 1, attempt: 1 },
      ...{ raw: first!.raw, properties: { a: "b" } },
    });
    expect(await t.deadLetters("g")).toEqual([]);
    const again = await t.queue.deadLetters.redrive("t", "g", { ids });
    expect(again.results.map(({ result }) => result)).toEqual(["not_found", "not_found"]);
    expect(await numbersOf(t)).toEqual([7, 7]);
  });

  test("letters of a key come back in their order, at the key's tail", async () => {
    await using t = await openTestQueue("mq-redrive");
    const handled: number[] = [];
    let isBroken = true;
    await t.run(
      t.queue.consume(t.topic, {
        ...{ group: "g", mode: "ordered" },
        handle({ data }) {
          if (isBroken && data.n % 2 === 1) throw new Bury("odd");
          handled.push(data.n);
        },
      }),
    );
    await t.publish("k", 1, 10);
    await eventually(async () => expect(await t.deadLetters("g")).toHaveLength(5));
    isBroken = false;
    const letters = (await t.queue.deadLetters.list("t", "g")).letters;
    // Newest first, as listed: the order of the ids is not the order of the messages.
    await t.queue.deadLetters.redrive("t", "g", { ids: letters.map(({ id }) => id) });
    await t.publish("k", 11, 12);
    await eventually(() => expect(handled).toEqual([2, 4, 6, 8, 10, 1, 3, 5, 7, 9, 11, 12]));
  });

  test("three times, then no more", async () => {
    await using t = await openTestQueue("mq-redrive");
    let calls = 0;
    await t.run(
      t.queue.consume(t.topic, {
        ...{ group: "g", mode: "ordered" },
        handle({ redrives }) {
          calls += 1;
          throw new Bury(`after ${redrives}`);
        },
      }),
    );
    await t.publish("k", 1, 1);
    for (const round of [1, 2, 3, 4]) {
      await eventually(async () => expect(await t.deadLetters("g")).toHaveLength(1));
      const { results } = await t.queue.deadLetters.redrive("t", "g", all);
      expect(results.map(({ result }) => result)).toEqual([round < 4 ? "redriven" : "limit"]);
    }
    expect(calls).toBe(4);
    const [letter] = (await t.queue.deadLetters.list("t", "g")).letters;
    expect(letter).toMatchObject({ redrives: 3, lastError: "Bury: after 3" });
    // Its first place, not the one that it had in between.
    expect(letter!.originSequence).not.toBe(letter!.entry);
  });

  test("what nobody would be given, and what is no message, stays", async () => {
    await using t = await openTestQueue("mq-redrive");
    await plantLetters(t, [
      { partition: 0, at: "1-0", n: 1, attributes: "t=a;x=1000" },
      { partition: 0, at: "2-0", n: 2, type: "", data: '["junk","1"]' },
      { partition: 0, at: "3-0", n: 3, attributes: "t=a;x=99999999999999" },
    ]);
    await t.store.redis.commands.xadd(t.store.keys.deadLetters("t", 0, "g"), "4-0", "junk", "1");
    const { results } = await t.queue.deadLetters.redrive("t", "g", all);
    expect(results.map(({ result }) => result)).toEqual(["expired", "malformed", "redriven", "malformed"]);
    expect(await entriesOf(t)).toEqual([{ n: 3, attributes: "x=99999999999999;t=a;g=g;r=1;o=4-0" }]);
    expect(await t.deadLetters("g")).toHaveLength(3);
    expect((await t.queue.deadLetters.list("t", "g")).letters).toHaveLength(3);
  });

  test("by time, key and error", async () => {
    await using t = await openTestQueue("mq-redrive");
    const key = "k1";
    const partition = t.store.keys.partitionOf(key);
    await plantLetters(
      t,
      planted(40, (n) => ({ partition: n <= 20 ? partition : (partition + 1) % 4, ...(n <= 20 ? { key } : {}) })).map(
        (letter) => ({ ...letter, error: letter.n! % 2 === 0 ? "Error: even" : "Error: odd" }),
      ),
    );
    const { deadLetters } = t.queue;
    const matched = async (selection: RedriveSelection) => (await deadLetters.redrive("t", "g", selection)).matched;
    expect(await matched({ filter: { key, error: "even", after: 4, before: 10 } })).toBe(3);
    expect(await numbersOf(t)).toEqual([4, 6, 8]);
    expect(await matched({ filter: { after: 39 } })).toBe(2);
    expect(await matched({ filter: { key, before: 3 } })).toBe(2);
    expect(await numbersOf(t)).toEqual([1, 2, 4, 6, 8, 39, 40]);
    expect(await matched(all)).toBe(33);
    expect(await numbersOf(t)).toEqual(range(1, 40));
  });

  test("a dry run says what would become of each and changes nothing", async () => {
    await using t = await openTestQueue("mq-redrive");
    await plantLetters(
      t,
      planted(1_200, (n) => (n === 1 ? { attributes: "r=3" } : {})),
    );
    const before = await digestOf(t.store);
    const reply = await t.queue.deadLetters.redrive("t", "g", all, { dryRun: true });
    expect(reply).toMatchObject({ matched: 1_200, redrive: undefined });
    expect(reply.results).toHaveLength(500);
    expect(reply.results.slice(0, 3).map(({ result }) => result)).toEqual(["limit", "redriven", "redriven"]);
    expect(await digestOf(t.store)).toEqual(before);
  });

  test("big bodies go in scripts of a few", async () => {
    await using t = await openTestQueue("mq-redrive");
    const data = JSON.stringify({ n: 1, text: "x".repeat(250_000) });
    await plantLetters(
      t,
      planted(60, () => ({ partition: 1, data })),
    );
    const { results } = await t.queue.deadLetters.redrive("t", "g", all);
    expect(results.map(({ result }) => result)).toEqual(range(1, 60).map(() => "redriven"));
    expect(await numbersOf(t)).toHaveLength(60);
  });

  test("what is out of range is refused, naming each field and its limit", async () => {
    await using t = await openTestQueue("mq-redrive");
    const issues = async (...args: Parameters<Queue["deadLetters"]["redrive"]>) => {
      const error = await t.queue.deadLetters.redrive(...args).catch((thrown) => thrown);
      expect(error).toMatchObject({ code: "INVALID" });
      return error.issues.map(({ path }: { path: string }) => path);
    };
    expect(await issues("t", "g", { ids: [] })).toEqual(["ids"]);
    expect(await issues("t", "g", { ids: Array.from({ length: 5_001 }, () => "0-1-0") })).toEqual(["ids"]);
    expect(await issues("t", "g", { ids: ["0-1-0", "x"] })).toEqual(["ids.1"]);
    expect(await issues("t", "g", { ids: ["0-1-0"], filter: {} } as unknown as RedriveSelection)).toEqual(["ids"]);
    expect(await issues("t", "g", {} as unknown as RedriveSelection)).toEqual(["ids"]);
    expect(await issues("t", "g", { filter: { before: -1, after: 0.5, key: "" } })).toEqual([
      "key",
      "filter.before",
      "filter.after",
    ]);
    expect(await issues("t", "*", all, { perSecond: 0 })).toEqual(["group", "perSecond"]);
    expect(await issues("t", "g", all, { perSecond: 1_001 })).toEqual(["perSecond"]);
  });
});

describe("in the background", () => {
  test("more than 500 are redriven step by step, each once, with what became of them", async () => {
    await using t = await openTestQueue("mq-redrive");
    await plantLetters(
      t,
      planted(1_500, (n) => (n % 100 === 0 ? { attributes: "r=3" } : {})),
    );
    const { matched, results, redrive } = await t.queue.deadLetters.redrive("t", "g", all);
    expect(matched).toBeGreaterThan(500);
    expect(results).toEqual([]);
    expect(await numbersOf(t)).toEqual([]);
    expect(await t.queue.deadLetters.redriveStatus(redrive!)).toMatchObject({ state: "running", endedAt: undefined });
    const status = await runToEnd(t.queue, redrive!);
    expect(status).toMatchObject({
      ...{ id: redrive, topic: "t", group: "g", state: "done", perSecond: 1_000, endedAt: expect.any(Number) },
      results: { redriven: 1_485, limit: 15, not_found: 0, expired: 0, malformed: 0 },
    });
    expect(await numbersOf(t)).toEqual(range(1, 1_500).filter((n) => n % 100 !== 0));
    expect(await t.deadLetters("g")).toHaveLength(15);
    const { redis, keys } = t.store;
    expect(await redis.commands.smembers(keys.redrives())).toEqual([]);
    expect(await redis.commands.pttl(keys.redrive(redrive!))).toBeGreaterThan(6 * 24 * 3_600_000);
  });

  test("a rate is kept, and what is buried meanwhile is not meant", async () => {
    await using t = await openTestQueue("mq-redrive");
    const { deadLetters } = t.queue;
    await plantLetters(t, planted(60));
    const startedAt = performance.now();
    const { redrive } = await deadLetters.redrive("t", "g", { filter: { error: "no" } }, { perSecond: 40 });
    await plantLetters(t, [{ partition: 3, at: `${Date.now() + 60_000}-0`, n: 999 }]);
    await eventually(async () => {
      await deadLetters.runRedrives();
      const { results, state } = (await deadLetters.redriveStatus(redrive!))!;
      const elapsedMs = performance.now() - startedAt;
      expect(results.redriven).toBeLessThanOrEqual(Math.ceil(elapsedMs * 0.04) + 1);
      expect(state).toBe("done");
    });
    expect(performance.now() - startedAt).toBeGreaterThan(1_400);
    expect(await numbersOf(t)).toEqual(range(1, 60));
    expect(await t.deadLetters("g")).toHaveLength(1);
  });

  test("by ids, of which some are gone", async () => {
    await using t = await openTestQueue("mq-redrive");
    await plantLetters(t, planted(10));
    const ids = range(1, 20).map((n) => `${n % 4}-${n}-0`);
    const { redrive } = await t.queue.deadLetters.redrive("t", "g", { ids }, { perSecond: 1_000 });
    const { results } = await runToEnd(t.queue, redrive!);
    expect(results).toMatchObject({ redriven: 10, not_found: 10 });
    expect(await numbersOf(t)).toEqual(range(1, 10));
  });

  test.each(["mqRedrive", "mqErrandNote", "mqDeadScan"])(
    "a runner that dies behind %s is followed by another: nothing twice, nothing left out, counts right",
    async (command) => {
      await using t = await openTestQueue("mq-redrive");
      await plantLetters(t, planted(700));
      const { redrive } = await t.queue.deadLetters.redrive("t", "g", all);
      // One call of the command is executed, and its caller dies before it hears of it.
      for (let deaths = 0; deaths < 6; deaths++) {
        await Bun.sleep(60);
        const dying = dyingAfter(t, command, 1 + (deaths % 3));
        await dying.deadLetters.runRedrives().catch(() => undefined);
        // Its lease would run out after a while.
        await t.store.redis.commands.hset(t.store.keys.redrive(redrive!), "lease", 0);
      }
      const { results } = await runToEnd(t.queue, redrive!);
      expect(results).toMatchObject({ redriven: 700, not_found: 0 });
      expect(await numbersOf(t)).toEqual(range(1, 700));
      expect(await t.deadLetters("g")).toEqual([]);
    },
  );

  test("of many runners at once, one runs it", async () => {
    await using t = await openTestQueue("mq-redrive");
    await plantLetters(t, planted(600));
    const { redrive } = await t.queue.deadLetters.redrive("t", "g", all);
    const runners = range(1, 5).map((n) => t.member(`runner-${n}`));
    await eventually(async () => {
      await Promise.all(runners.map((runner) => runner.deadLetters.runRedrives()));
      expect((await t.queue.deadLetters.redriveStatus(redrive!))?.state).toBe("done");
    });
    expect((await t.queue.deadLetters.redriveStatus(redrive!))?.results).toMatchObject({ redriven: 600, not_found: 0 });
    expect(await numbersOf(t)).toEqual(range(1, 600));
  });

  test("canceled, it stops where it is and says so", async () => {
    await using t = await openTestQueue("mq-redrive");
    const { deadLetters } = t.queue;
    // More than a runner that comes late makes up for.
    await plantLetters(t, planted(200));
    const { redrive } = await deadLetters.redrive("t", "g", all, { perSecond: 20 });
    await eventually(async () => {
      await deadLetters.runRedrives();
      expect((await deadLetters.redriveStatus(redrive!))!.results.redriven).toBeGreaterThan(3);
    });
    expect(await deadLetters.cancelRedrive(redrive!)).toBe("ok");
    expect(await deadLetters.cancelRedrive(redrive!)).toBe("cancelled");
    const done = (await deadLetters.redriveStatus(redrive!))!;
    await Bun.sleep(200);
    await deadLetters.runRedrives();
    expect(await deadLetters.redriveStatus(redrive!)).toEqual(done);
    expect(await numbersOf(t)).toHaveLength(done.results.redriven);
    expect(await t.deadLetters("g")).toHaveLength(200 - done.results.redriven);
    expect(await deadLetters.cancelRedrive("none")).toBe("not_found");
    expect(await deadLetters.redriveStatus("none")).toBeUndefined();
  });

  test("a hundred at a time", async () => {
    await using t = await openTestQueue("mq-redrive");
    const start = () => t.queue.deadLetters.redrive("t", "g", { ids: ["0-1-0"] }, { perSecond: 1 });
    await Promise.all(range(1, 100).map(start));
    await expect(start()).rejects.toMatchObject({ code: "RATE_LIMITED" });
  });
});

/** A queue whose process seems to die when Redis has executed the nth call of a command. */
function dyingAfter({ store }: TestQueue, command: string, nth: number): Queue {
  const { redis, keys, metrics } = store;
  let calls = 0;
  const commands = new Proxy(redis.commands, {
    get(target, name) {
      const value = Reflect.get(target, name) as unknown;
      if (typeof value !== "function") return value;
      return async (...args: unknown[]) => {
        const reply = await (value as (...given: unknown[]) => unknown).apply(target, args);
        if (name === command) calls += 1;
        if (calls >= nth) throw new Error("died");
        return reply;
      };
    },
  });
  return openQueue({
    redis: { ...redis, commands },
    ...{ keys, metrics, clock: systemClock, log: silentLog, member: "dying" },
  });
}
