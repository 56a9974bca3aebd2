/** The parts of `bench mq`. A message is done when the handlers of all groups have returned. */

import { MQ_GOALS, type MqScale } from "./goals.ts";
import { consumeOnly, endToEnd, publishOnly, type Trial, type TrialOptions } from "./mq-trial.ts";
import type { Fsync } from "./redis.ts";
import { type Figure, formatNumber, type Report } from "./report.ts";

export interface MqBench {
  readonly report: Report;
  readonly scale: MqScale;
  readonly level: "memory" | "disk";
  readonly fsync: Fsync;
}

type Part = Omit<TrialOptions, "fsync" | "warm" | "messages">;

/** The modes and handlers that are measured, with what the goal asks of the batch handler's rate. */
const CONSUMERS = [
  { mode: "concurrent", handler: "batch", ofRaw: MQ_GOALS.concurrentOfRaw },
  { mode: "concurrent", handler: "single", ofRaw: undefined },
  { mode: "ordered", handler: "batch", ofRaw: MQ_GOALS.orderedOfRaw },
  { mode: "ordered", handler: "single", ofRaw: MQ_GOALS.orderedOfRaw },
] as const;
const RAW: Part = { kind: "raw" };
/** Jobs in hand of the peer's worker: the best of these is measured. */
const BULLMQ_CONCURRENCIES = [50, 200, 500];
const GROUP_COUNTS = [3, 10];
/** Keys of the poison section: one of them always fails. */
const POISON_KEYS = 100;

/** End to end, beside the bare commands and beside BullMQ. */
export async function benchRates(bench: MqBench): Promise<void> {
  const { report, level } = bench;
  report.section(
    `At \`${level}\`: end to end, 100-byte data, 16 partitions, 1 000 keys, one process publishes and one consumes`,
  );
  const parts = CONSUMERS.map(({ mode, handler }): Part => ({ kind: "skein", consume: { mode, handler } }));
  const [raw, ...ours] = await byTurns(
    bench,
    [RAW, ...parts].map((part) => () => endToEnd(sized(bench, part))),
  );
  const bullmq = await tunedBullmq(bench);
  report.add({ name: "raw: pipelined XADD, XREADGROUP + XACK", value: raw!.perSecond, unit: "/s", note: cpu(raw!) });
  report.add({ name: "BullMQ: addBulk, one worker", value: bullmq.trial.perSecond, unit: "/s", note: bullmq.note });
  for (const [i, { mode, handler, ofRaw }] of CONSUMERS.entries()) {
    const trial = ours[i]!;
    report.add({ name: `${mode}, ${handler} handler`, value: trial.perSecond, unit: "/s", note: cpu(trial) });
    const goal = ofRaw === undefined ? {} : atLeast(ofRaw);
    report.add({ name: "  of raw", value: trial.perSecond / raw!.perSecond, unit: "x", ...goal });
    const ofBullmq = trial.perSecond / bullmq.trial.perSecond;
    report.add({ name: "  of BullMQ", value: ofBullmq, unit: "x", ...atLeast(MQ_GOALS.ofBullmq) });
  }
  const parsed = {
    publish: { isParsed: true },
    consume: { mode: "ordered", handler: "single", isParsed: true },
  } as const;
  const trial = await endToEnd(sized(bench, { kind: "skein", ...parsed }));
  const name = "ordered, single, both ends check the schema";
  report.add({ name, value: trial.perSecond, unit: "/s", note: `${ratio(trial, raw!)} of raw; ${cpu(trial)}` });
}

/** The two ends by themselves. */
export async function benchSides(bench: MqBench): Promise<void> {
  const { report, level } = bench;
  report.section(`At \`${level}\`: publishing without consumers, and consuming what was published before`);
  const single = { batch: 1, outstanding: 1_000 };
  const publishing: [name: string, part: Part][] = [
    ["publish: raw, pipelined XADD", RAW],
    ["publish: publishMany of 500, JSON as it is", { kind: "skein" }],
    ["publish: publishMany of 500, checked data", { kind: "skein", publish: { isParsed: true } }],
    ["publish: one at a time, 1 000 unanswered", { kind: "skein", publish: single }],
  ];
  const consuming: [name: string, part: Part][] = [
    ["consume: raw, XREADGROUP + XACK", RAW],
    ...CONSUMERS.map(({ mode, handler }): [string, Part] => [
      `consume: ${mode}, ${handler} handler`,
      { kind: "skein", consume: { mode, handler } },
    ]),
  ];
  for (const [run, sides] of [[publishOnly, publishing] as const, [consumeOnly, consuming] as const]) {
    const trials = await byTurns(
      bench,
      sides.map(
        ([, part]) =>
          () =>
            run(sized(bench, part)),
      ),
    );
    for (const [i, [name]] of sides.entries()) {
      const note = i === 0 ? cpu(trials[i]!) : `${ratio(trials[i]!, trials[0]!)} of raw; ${cpu(trials[i]!)}`;
      report.add({ name, value: trials[i]!.perSecond, unit: "/s", note });
    }
  }
}

/** What one more group costs: CPU time of all, for a rate would show what the machine has cores for. */
export async function benchGroups(bench: MqBench): Promise<void> {
  const { report, level } = bench;
  report.section(`At \`${level}\`: several groups, end to end, batch handlers, all groups in one process`);
  const parts = (["ordered", "concurrent"] as const).map((mode) =>
    [1, ...GROUP_COUNTS].map((groups): Part => ({ kind: "skein", consume: { mode, groups } })),
  );
  const trials = await byTurns(
    bench,
    parts.flat().map((part) => () => endToEnd(sized(bench, part))),
  );
  for (const [i, mode] of ["ordered", "concurrent"].entries()) {
    const [first, ...more] = trials.slice(i * parts[0]!.length, (i + 1) * parts[0]!.length);
    report.add({ name: `${mode}: 1 group`, value: first!.perSecond, unit: "/s", note: cpu(first!) });
    for (const [j, groups] of GROUP_COUNTS.entries()) {
      const trial = more[j]!;
      report.add({ name: `${mode}: ${groups} groups`, value: trial.perSecond, unit: "/s", note: cpu(trial) });
      report.add({
        name: "  each further group, of the first one's cost",
        value: (trial.micros - first!.micros) / (groups - 1) / first!.micros,
        unit: "x",
        ...atMost(MQ_GOALS.extraGroupOfFirst),
        note: `of Redis alone ${formatNumber((trial.redisMicros - first!.redisMicros) / (groups - 1) / first!.redisMicros)}`,
      });
    }
  }
}

export async function benchBacklog(bench: MqBench): Promise<void> {
  const { report, scale, level } = bench;
  report.section(`At \`${level}\`: a backlog drains, batch handlers`);
  for (const mode of ["ordered", "concurrent"] as const) {
    const drain = (messages: number) => () =>
      consumeOnly({ ...sized(bench, { kind: "skein", consume: { mode } }), messages });
    // Short ones take some 50 ms each: more of them make up for that.
    const shortRuns = { ...bench, scale: { ...scale, runs: 2 * scale.runs + 1 } };
    const [short] = await byTurns(shortRuns, [drain(scale.backlogShort)]);
    const [long] = await byTurns(bench, [drain(scale.backlog)]);
    report.add({ name: `${mode}: ${formatNumber(scale.backlogShort)} messages`, value: short!.perSecond, unit: "/s" });
    report.add({ name: `${mode}: ${formatNumber(scale.backlog)} messages`, value: long!.perSecond, unit: "/s" });
    const value = long!.perSecond / short!.perSecond;
    report.add({ name: "  of the short one's rate", value, unit: "x", ...atLeast(MQ_GOALS.backlogOfShort) });
  }
}

/** One key of a hundred always fails: what is left to the others. */
export async function benchPoison(bench: MqBench): Promise<void> {
  const { report, level } = bench;
  report.section(
    `At \`${level}\`: one of ${POISON_KEYS} keys always fails; rates of the others, ordered, single handler`,
  );
  const part = (doesFail: boolean): Part => ({
    kind: "skein",
    publish: { keys: POISON_KEYS },
    consume: { mode: "ordered", handler: "single", uncountedKey: "key-0", doesFail },
  });
  const [well, beside] = await byTurns(
    bench,
    [false, true].map((doesFail) => () => endToEnd(sized(bench, part(doesFail)))),
  );
  report.add({ name: "99 keys, none fails", value: well!.perSecond, unit: "/s", note: cpu(well!) });
  report.add({ name: "99 keys beside one that fails", value: beside!.perSecond, unit: "/s", note: cpu(beside!) });
  const value = beside!.perSecond / well!.perSecond;
  report.add({ name: "  of the rate in health", value, unit: "x", ...atLeast(MQ_GOALS.besidePoison) });
}

async function tunedBullmq(bench: MqBench): Promise<{ trial: Trial; note: string }> {
  const { scale } = bench;
  const sizes = { warm: scale.bullmqWarm, messages: scale.bullmqMessages };
  const run = (concurrency: number) => () =>
    endToEnd({ ...sized(bench, { kind: "bullmq", consume: { concurrency } }), ...sizes });
  const tried = await byTurns({ ...bench, scale: { ...scale, runs: 1 } }, BULLMQ_CONCURRENCIES.map(run));
  const best = tried.reduce((a, b) => (a.perSecond > b.perSecond ? a : b));
  const concurrency = BULLMQ_CONCURRENCIES[tried.indexOf(best)]!;
  const [trial] = await byTurns(bench, [run(concurrency)]);
  return { trial: trial!, note: `concurrency ${concurrency}, the best of ${BULLMQ_CONCURRENCIES}; ${cpu(trial!)}` };
}

/** Of each the run with the median rate; the runs of all by turns, so that a slow minute meets all. */
async function byTurns({ scale }: MqBench, runs: readonly (() => Promise<Trial>)[]): Promise<Trial[]> {
  const trials: Trial[][] = runs.map(() => []);
  for (let turn = 0; turn < scale.runs; turn++) {
    for (const [i, run] of runs.entries()) trials[i]!.push(await run());
  }
  return trials.map((of) => of.sort((a, b) => a.perSecond - b.perSecond)[Math.floor(of.length / 2)]!);
}

const sized = ({ fsync, scale: { warm, messages } }: MqBench, part: Part): TrialOptions => ({
  ...part,
  ...{ fsync, warm, messages },
});

const atLeast = (value: number): Pick<Figure, "goal"> => ({ goal: { value, reached: "at least" } });
const atMost = (value: number): Pick<Figure, "goal"> => ({ goal: { value, reached: "at most" } });

const ratio = (trial: Trial, raw: Trial): string => formatNumber(trial.perSecond / raw.perSecond);

function cpu({ redisMicros, publisherMicros, consumerMicros }: Trial): string {
  const [redis, publisher, consumer] = [redisMicros, publisherMicros, consumerMicros].map(formatNumber);
  return `CPU a message, µs: Redis ${redis}, publisher ${publisher}, consumer ${consumer}`;
}
