/** Checks of half messages: each handed to one, none without need, none after the end; in process, by HTTP, by pull. */

import { describe, expect, test } from "bun:test";
import { HALF_TIMES } from "../../lib/mq/half.ts";
import { type Check, type CheckAnswer, type CheckHandler, defineTopic, type HalfTimes } from "../../lib/mq/index.ts";
import { eventually } from "../support/eventually.ts";
import { Numbered, openTestQueue, range, type TestQueue } from "../support/queue.ts";
import { refusal } from "../support/refusal.ts";

/** As in life, a thousand times faster. */
const FAST: Partial<HalfTimes> = { firstCheckMs: 10, checkWaitsMs: Array.from({ length: 15 }, () => 5), lookMs: 10 };
/** Due at once, and no second check within the test. */
const ONCE: Partial<HalfTimes> = { firstCheckMs: 0, lookMs: 10 };
const open = (halfTimes: Partial<HalfTimes>) => openTestQueue("mq-checks", { halfTimes });
const prepare = (t: TestQueue, n: number, options: object = {}) =>
  t.queue.transactions.prepare(
    t.topic,
    { type: "numbered", key: `k${n}`, data: { n } },
    { producerGroup: "shop", ...options },
  );
const stateOf = async (t: TestQueue, id: string) => (await t.queue.transactions.get(id)).state;
/** A handler that notes something of each check and gives always the same answer. */
const noting =
  <T>(seen: T[], of: (check: Check) => T, answer: CheckAnswer): CheckHandler =>
  (check) => {
    seen.push(of(check));
    return answer;
  };
const idOf = ({ id }: Check) => id;
const numberOf = ({ checks }: Check) => checks;
const soon = () => AbortSignal.timeout(20_000);

async function answersOf(t: TestQueue): Promise<Record<string, number>> {
  const { values } = await t.store.metrics.checks.get();
  return Object.fromEntries(values.map(({ labels, value }) => [labels.answer, value]));
}

test("the ladder: 15 checks from 30 s × 1.5 up to 10 min, the first after 10 s, within 4 h", () => {
  const { firstCheckMs, checkWaitsMs, budgetMs } = HALF_TIMES;
  expect(firstCheckMs).toBe(10_000);
  expect(checkWaitsMs.length).toBe(15);
  expect(checkWaitsMs.slice(0, 4)).toEqual([30_000, 45_000, 67_500, 101_250]);
  expect(checkWaitsMs.slice(8)).toEqual([600_000, 600_000, 600_000, 600_000, 600_000, 600_000, 600_000]);
  expect(budgetMs).toBe(4 * 3_600_000);
  expect(firstCheckMs + checkWaitsMs.reduce((a, b) => a + b)).toBeLessThan(budgetMs);
});

describe("in process", () => {
  test("a live member answers: commit and rollback are done, unknown is asked again", async () => {
    await using t = await open(FAST);
    const halves = await Promise.all(range(1, 30).map((n) => prepare(t, n)));
    const asked: Check[] = [];
    await t.run(
      t.queue.transactions.answerChecks("shop", (check) => {
        asked.push(check);
        const { n } = JSON.parse(check.message.raw) as Numbered;
        if (n % 3 === 0) return check.checks < 3 ? "unknown" : "commit";
        return n % 3 === 1 ? "commit" : "rollback";
      }),
    );
    await eventually(async () => {
      const states = await Promise.all(halves.map(({ id }) => stateOf(t, id)));
      expect(states).toEqual(range(1, 30).map((n) => (n % 3 === 2 ? "rolled_back" : "committed")));
    });
    const first = asked.find(({ id }) => id === halves[2]!.id)!;
    expect(first).toMatchObject({ topic: "t", producerGroup: "shop", checks: 1, state: "prepared" });
    expect(first.message).toMatchObject({ type: "numbered", key: "k3", id: halves[2]!.id });
    // A check may come before the answer to the last one is done.
    const { commit, rollback, unknown } = await answersOf(t);
    expect([commit! >= 20, rollback! >= 10, unknown! >= 20]).toEqual([true, true, true]);
  });

  test("of several members each check goes to one", async () => {
    await using t = await open(ONCE);
    const asked: string[] = [];
    for (const name of ["a", "b", "c"]) {
      const { transactions } = t.member(name);
      await t.run(transactions.answerChecks("shop", noting(asked, idOf, "unknown")));
    }
    const halves = await Promise.all(range(1, 100).map((n) => prepare(t, n)));
    await eventually(() => expect(asked.length).toBe(100));
    await Bun.sleep(50);
    expect(new Set(asked)).toEqual(new Set(halves.map(({ id }) => id)));
    expect(asked.length).toBe(100);
  });

  test("a member that dies over a check leaves the next one to another", async () => {
    await using t = await open({ ...FAST, checkWaitsMs: range(1, 15).map(() => 50) });
    const { id } = await prepare(t, 1);
    const dead = await t.run(t.member("dead").transactions.answerChecks("shop", () => new Promise(() => undefined)));
    await eventually(async () => expect((await t.queue.transactions.get(id)).checks).toBeGreaterThan(0));
    await dead.stop(AbortSignal.abort());
    await t.run(t.queue.transactions.answerChecks("shop", ({ checks }) => (checks > 1 ? "commit" : "unknown")));
    await eventually(async () => expect(await stateOf(t, id)).toBe("committed"));
  });

  test("what a handler throws counts as no answer, and the next check comes", async () => {
    await using t = await open(FAST);
    const { id } = await prepare(t, 1);
    await t.run(
      t.queue.transactions.answerChecks("shop", ({ checks }) => {
        if (checks < 3) throw new Error("database away");
        return "rollback";
      }),
    );
    await eventually(async () => expect(await stateOf(t, id)).toBe("rolled_back"));
    expect((await answersOf(t)).none).toBe(2);
  });

  test("an answer after the decision has no effect", async () => {
    await using t = await open(ONCE);
    const { id } = await prepare(t, 1);
    const answer = Promise.withResolvers<CheckAnswer>();
    const service = await t.run(t.queue.transactions.answerChecks("shop", () => answer.promise));
    await eventually(async () => expect((await t.queue.transactions.get(id)).checks).toBe(1));
    await t.queue.transactions.rollback(id);
    answer.resolve("commit");
    await service.stop(soon());
    expect(await stateOf(t, id)).toBe("rolled_back");
  });

  test("a stop waits for answers in hand, takes no more, and does not start again", async () => {
    await using t = await open(ONCE);
    const { id } = await prepare(t, 1);
    const answer = Promise.withResolvers<CheckAnswer>();
    const service = await t.run(t.queue.transactions.answerChecks("shop", () => answer.promise));
    await eventually(async () => expect((await t.queue.transactions.get(id)).checks).toBe(1));
    const stopped = service.stop(soon());
    const second = await prepare(t, 2);
    answer.resolve("commit");
    await stopped;
    expect(await stateOf(t, id)).toBe("committed");
    expect((await t.queue.transactions.get(second.id)).checks).toBe(0);
    expect((await refusal(service.start())).code).toBe("OVERLOADED");
  });

  test("more checks than a member has hands for wait their turn", async () => {
    await using t = await open(ONCE);
    await Promise.all(range(1, 60).map((n) => prepare(t, n)));
    let inHand = 0;
    let most = 0;
    let done = 0;
    await t.run(
      t.queue.transactions.answerChecks("shop", async (): Promise<CheckAnswer> => {
        inHand += 1;
        most = Math.max(most, inHand);
        await Bun.sleep(2);
        inHand -= 1;
        done += 1;
        return "commit";
      }),
    );
    await eventually(() => expect(done).toBe(60));
    expect(most).toBe(16);
  });
});

describe("what uses up no check", () => {
  test("immunity: nothing is asked or counted before firstCheckMs", async () => {
    await using t = await open({ ...FAST, firstCheckMs: 60_000 });
    const asked: number[] = [];
    await t.run(
      t.queue.transactions.answerChecks("shop", ({ message }) => {
        asked.push((JSON.parse(message.raw) as Numbered).n);
        return "unknown";
      }),
    );
    const immune = await prepare(t, 1);
    await prepare(t, 2, { firstCheckMs: 0 });
    await eventually(() => expect(asked.length).toBeGreaterThanOrEqual(10));
    expect(new Set(asked)).toEqual(new Set([2]));
    expect((await t.queue.transactions.get(immune.id)).checks).toBe(0);
  });

  test("no member alive: checks wait until one is there, all of them", async () => {
    await using t = await open({ ...FAST, firstCheckMs: 1, checkWaitsMs: [1, 1, 1] });
    const { id } = await prepare(t, 1);
    const others: string[] = [];
    await t.run(t.queue.transactions.answerChecks("other", noting(others, idOf, "commit")));
    await t.run(t.queue.transactions.createCheckCaller({ call: noting(others, idOf, "commit") }));
    // Time for all three checks, were they counted by the clock.
    await Bun.sleep(60);
    await t.queue.transactions.expire();
    expect(await t.queue.transactions.get(id)).toMatchObject({ state: "prepared", checks: 0 });
    const asked: number[] = [];
    await t.run(t.queue.transactions.answerChecks("shop", noting(asked, numberOf, "unknown")));
    await eventually(() => expect(asked).toEqual([1, 2, 3]));
    expect(others).toEqual([]);
  });
});

describe("the end", () => {
  test("after the last check it expires, and no check is ever handed out", async () => {
    await using t = await open(FAST);
    const { id } = await prepare(t, 1);
    const asked: number[] = [];
    await t.run(t.queue.transactions.answerChecks("shop", noting(asked, numberOf, "unknown")));
    await eventually(async () => {
      await t.queue.transactions.expire();
      expect(await stateOf(t, id)).toBe("expired");
    });
    await Bun.sleep(50);
    expect(asked).toEqual(range(1, 15));
    expect(await t.queue.transactions.receiveChecks("shop", { max: 100, waitMs: 0 })).toEqual([]);
  });

  test("after its budget, too, before anyone has swept", async () => {
    await using t = await open({ ...ONCE, budgetMs: 1 });
    const { id } = await prepare(t, 1);
    await eventually(async () => expect((await t.queue.transactions.expire()).expired).toBe(1));
    const unswept = await prepare(t, 2);
    await Bun.sleep(5);
    expect(await t.queue.transactions.receiveChecks("shop", { max: 100, waitMs: 0 })).toEqual([]);
    expect(await stateOf(t, unswept.id)).toBe("prepared");
    expect(await stateOf(t, id)).toBe("expired");
  });

  test("neither is a decided one asked for, whatever was due", async () => {
    await using t = await open(ONCE);
    const halves = await Promise.all(range(1, 20).map((n) => prepare(t, n)));
    const { commit, rollback } = t.queue.transactions;
    await Promise.all(halves.map(({ id }, i) => (i % 2 === 0 ? commit(id) : rollback(id))));
    expect(await t.queue.transactions.receiveChecks("shop", { max: 100, waitMs: 0 })).toEqual([]);
  });

  test("a resumed one gets all its checks anew", async () => {
    await using t = await open({ ...FAST, firstCheckMs: 0, checkWaitsMs: [0, 0] });
    const { id } = await prepare(t, 1);
    const asked: number[] = [];
    const receive = async () => {
      for (const { checks } of await t.queue.transactions.receiveChecks("shop", { max: 1, waitMs: 0 }))
        asked.push(checks);
    };
    for (const _ of range(1, 3)) await receive();
    await t.queue.transactions.expire();
    await receive();
    await t.queue.transactions.resume(id);
    for (const _ of range(1, 3)) await receive();
    expect(asked).toEqual([1, 2, 1, 2]);
  });
});

describe("by HTTP", () => {
  test("halves with a check URL go to the caller, and not to members of their group", async () => {
    // No third check within the test, however late the answer to the second comes.
    await using t = await open({ ...FAST, checkWaitsMs: [5, 60_000, 60_000] });
    const checkUrl = "https://shop.example/checks";
    const half = await prepare(t, 1, { checkUrl });
    const plain = await prepare(t, 2);
    const inProcess: string[] = [];
    const called: Check[] = [];
    await t.run(t.queue.transactions.answerChecks("shop", noting(inProcess, idOf, "rollback")));
    await t.run(
      t.queue.transactions.createCheckCaller({
        async call(check): Promise<CheckAnswer> {
          called.push(check);
          if (check.checks === 1) throw new Error("502");
          return "commit";
        },
      }),
    );
    await eventually(async () => {
      expect([await stateOf(t, half.id), await stateOf(t, plain.id)]).toEqual(["committed", "rolled_back"]);
    });
    // Its second check may come before the answer to the first is done.
    expect(new Set(inProcess)).toEqual(new Set([plain.id]));
    expect(called.map(({ id, checks, checkUrl: url }) => [id, checks, url])).toEqual([
      [half.id, 1, checkUrl],
      [half.id, 2, checkUrl],
    ]);
  });
});

describe("by pull", () => {
  test("receive waits for the next due check, and an answer decides", async () => {
    await using t = await open({ ...FAST, firstCheckMs: 100, lookMs: 1_000 });
    const { receiveChecks, answerCheck } = t.queue.transactions;
    expect(await receiveChecks("shop", { max: 10, waitMs: 0 })).toEqual([]);
    const receiving = receiveChecks("shop", { max: 10, waitMs: 20_000 });
    const { id } = await prepare(t, 1, { firstCheckMs: 0 });
    const [check, ...others] = await receiving;
    expect([check!.id, others]).toEqual([id, []]);
    expect(await answerCheck(id, "unknown")).toMatchObject({ state: "prepared", checks: 1 });
    expect(await answerCheck(id, "commit")).toMatchObject({ state: "committed" });
    expect(await answerCheck(id, "commit")).toMatchObject({ state: "committed" });
    expect(await answerCheck(id, "unknown")).toMatchObject({ state: "committed" });
    expect(await refusal(answerCheck(id, "rollback"))).toMatchObject({ code: "CONFLICT", state: "committed" });
  });

  test("one receive takes at most max, and at most so many bytes", async () => {
    const topic = defineTopic("t", { schema: Numbered });
    await using t = await openTestQueue("mq-checks", { partitions: 1, topic, halfTimes: ONCE });
    await Promise.all(range(1, 40).map((n) => prepare(t, n)));
    const receive = (max: number) => t.queue.transactions.receiveChecks("shop", { max, waitMs: 0 });
    expect((await receive(15)).length).toBe(15);
    expect((await receive(100)).length).toBe(25);
    const raw = `{"n":1${" ".repeat(255_000)}}`;
    for (const n of range(1, 8)) {
      await t.queue.transactions.prepare(t.topic, { type: "n", key: `k${n}`, raw }, { producerGroup: "shop" });
    }
    expect((await receive(100)).length).toBe(5);
    expect((await receive(100)).length).toBe(3);
  });

  test("who has gone is given nothing, and nothing is used up", async () => {
    await using t = await open(ONCE);
    const gone = new AbortController();
    const receiving = t.queue.transactions.receiveChecks("shop", { max: 1, waitMs: 20_000, signal: gone.signal });
    gone.abort();
    expect(await receiving).toEqual([]);
    const { id } = await prepare(t, 1);
    const { signal } = gone;
    expect(await t.queue.transactions.receiveChecks("shop", { max: 1, waitMs: 20_000, signal })).toEqual([]);
    expect((await t.queue.transactions.get(id)).checks).toBe(0);
  });

  test("limits are refused with their field", async () => {
    await using t = await open(ONCE);
    const pathOf = async (group: string, max: number, waitMs: number) =>
      (await refusal(t.queue.transactions.receiveChecks(group, { max, waitMs }))).issues![0]!.path;
    expect(await pathOf("#http", 1, 0)).toBe("producerGroup");
    expect(await pathOf("shop", 0, 0)).toBe("max");
    expect(await pathOf("shop", 101, 0)).toBe("max");
    expect(await pathOf("shop", 1, -1)).toBe("waitMs");
    expect(await pathOf("shop", 1, 20_001)).toBe("waitMs");
    expect(() => t.queue.transactions.answerChecks("#http", () => "commit")).toThrow("producerGroup");
  });
});
