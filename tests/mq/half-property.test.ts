/**
 * Random histories of half messages beside a model of a few lines: every answer, every check and the topic are as the model says.
 * A seed is printed with every run; SEED below repeats its run.
 */

import { expect, test } from "bun:test";
import fc from "fast-check";
import type { AppError } from "../../lib/errors.ts";
import type { CheckAnswer, Half, HalfState } from "../../lib/mq/index.ts";
import { openTestQueue, type TestQueue } from "../support/queue.ts";

/** Set to a printed seed to repeat its run. */
const SEED: number | undefined = undefined;
const RUNS = 80;
/** Every check is due at once, and behind the third the half is over. */
const TIMES = { firstCheckMs: 0, checkWaitsMs: [0, 0, 0], lookMs: 1 };
const CHECKS = TIMES.checkWaitsMs.length;

type Step =
  | { readonly act: "prepare"; readonly key: number; readonly dedupe: number }
  | { readonly act: "commit" | "rollback" | "resume" | "get"; readonly half: number }
  | { readonly act: "answer"; readonly half: number; readonly answer: CheckAnswer }
  | { readonly act: "check" | "expire" };

const half = fc.nat(5);
const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 4, arbitrary: fc.record({ act: fc.constant("prepare" as const), key: fc.nat(2), dedupe: fc.nat(3) }) },
  {
    weight: 5,
    arbitrary: fc.record({ act: fc.constantFrom("commit" as const, "rollback" as const, "resume", "get"), half }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      act: fc.constant("answer" as const),
      half,
      answer: fc.constantFrom("commit" as const, "rollback" as const, "unknown" as const),
    }),
  },
  { weight: 5, arbitrary: fc.record({ act: fc.constantFrom("check" as const, "expire" as const) }) },
);

interface Modelled {
  readonly id: string;
  readonly dedupId: string;
  state: HalfState;
  checks: number;
}

/** What the documentation says, without time. */
class Model {
  readonly halves: Modelled[] = [];
  /** Ids of the messages that the topic holds, and by which dedupId. */
  readonly topic: string[] = [];
  readonly #seen = new Map<string, string>();

  decide(half: Modelled, decision: "committed" | "rolled_back"): void {
    if (half.state === "committed" || half.state === "rolled_back") return;
    half.state = decision;
    if (decision === "rolled_back" || this.#seen.has(half.dedupId)) return;
    this.topic.push(half.id);
    if (half.dedupId !== "") this.#seen.set(half.dedupId, half.id);
  }

  /** The halves that are asked for now, by id. */
  check(): string[] {
    const due = this.halves.filter(({ state, checks }) => state === "prepared" && checks < CHECKS);
    for (const each of due) each.checks += 1;
    return due.map(({ id }) => id).sort();
  }

  expire(): number {
    const over = this.halves.filter(({ state, checks }) => state === "prepared" && checks === CHECKS);
    for (const each of over) each.state = "expired";
    return over.length;
  }

  resume(half: Modelled): void {
    if (half.state === "expired") Object.assign(half, { state: "prepared", checks: 0 });
  }
}

/** The state that a call answered with, by its result or its refusal. */
async function stateAfter(call: Promise<Half>): Promise<HalfState | undefined> {
  return call.then(
    ({ state }) => state,
    (error: AppError) => error.state as HalfState | undefined,
  );
}

async function play(t: TestQueue, steps: readonly Step[]): Promise<void> {
  const { transactions } = t.queue;
  const model = new Model();
  for (const each of steps) {
    if (each.act === "prepare") {
      // One key per dedupId: the window is the partition's.
      const dedupId = each.dedupe === 0 ? "" : `d${each.key}-${each.dedupe}`;
      const input = { type: "numbered", key: `k${each.key}`, data: { n: model.halves.length }, dedupId };
      const { id } = await transactions.prepare(t.topic, input, { producerGroup: "g" });
      model.halves.push({ id, dedupId, state: "prepared", checks: 0 });
    } else if (each.act === "check") {
      const checks = await transactions.receiveChecks("g", { max: 100, waitMs: 0 });
      expect(checks.map(({ id }) => id).sort()).toEqual(model.check());
    } else if (each.act === "expire") expect((await transactions.expire()).expired).toBe(model.expire());
    else if ("half" in each) {
      const modelled = model.halves[each.half];
      if (modelled) await playOne(t, model, modelled, each);
    }
  }
  expect((await entriesOf(t)).sort()).toEqual([...model.topic].sort());
  for (const state of ["prepared", "expired"] as const) {
    const { halves } = await transactions.list({ state, limit: 200 });
    const expected = model.halves.filter((modelled) => modelled.state === state).map(({ id, checks }) => [id, checks]);
    expect(halves.map(({ id, checks }) => [id, checks]).sort()).toEqual(expected.sort());
  }
}

async function playOne(
  t: TestQueue,
  model: Model,
  modelled: Modelled,
  { act, answer = "unknown" }: { readonly act: string; readonly answer?: CheckAnswer },
): Promise<void> {
  const { transactions } = t.queue;
  const { id } = modelled;
  switch (act) {
    case "commit":
      model.decide(modelled, "committed");
      expect(await stateAfter(transactions.commit(id))).toBe(modelled.state);
      break;
    case "rollback":
      model.decide(modelled, "rolled_back");
      expect(await stateAfter(transactions.rollback(id))).toBe(modelled.state);
      break;
    case "answer":
      if (answer !== "unknown") model.decide(modelled, answer === "commit" ? "committed" : "rolled_back");
      expect(await stateAfter(transactions.answerCheck(id, answer))).toBe(modelled.state);
      break;
    case "resume":
      model.resume(modelled);
      expect(await stateAfter(transactions.resume(id))).toBe(modelled.state);
      break;
    default:
      expect(await transactions.get(id)).toMatchObject({ state: modelled.state, checks: modelled.checks });
  }
}

async function entriesOf({ store: { keys, redis } }: TestQueue): Promise<string[]> {
  const ids: string[] = [];
  for (let partition = 0; partition < keys.partitions; partition++) {
    const entries = await redis.commands.xrange(keys.topic("t", partition), "-", "+");
    ids.push(...entries.map(([, fields]) => fields[0]!.split(" ")[0]!));
  }
  return ids;
}

test("whatever happens in whatever order, the model knew it", async () => {
  const seed = SEED ?? Math.floor(Math.random() * 2 ** 31);
  console.log(`seed ${seed}`);
  await fc.assert(
    fc.asyncProperty(fc.array(step, { minLength: 5, maxLength: 60 }), async (steps) => {
      await using t = await openTestQueue("mq-half-model", { partitions: 2, halfTimes: TIMES });
      await play(t, steps);
    }),
    { seed, numRuns: RUNS, endOnFailure: true },
  );
});
