/**
 * The parts of `bench chat` on a whole Skein: roles in separate processes, two gateways, every check and group on, load from a
 * process of its own.
 */

import type { LoadProcess, Percentiles } from "../load/index.ts";
import { GOALS, type Scale } from "./goals.ts";
import { infoNumber } from "./redis.ts";
import { formatNumber, type Report } from "./report.ts";
import type { Measured, SkeinLoad } from "./skein-load.ts";
import type { RunningTarget } from "./target.ts";
import { residentBytesOf, totalSeconds } from "./usage.ts";

const PAIRS = 100;
const OUTSTANDING = 10;
const OPEN_LOOP_RATES = [500, 2_000];
/** The rate that the latency goals speak of. */
const GOAL_RATE = 2_000;
const GROUP_MEMBERS = 100;
const GROUP_SENDERS = 10;
const COMMANDS_SHOWN = 10;

/** What every part works with. */
export interface Bench {
  readonly report: Report;
  readonly scale: Scale;
  readonly ackLevel: "memory" | "disk";
  /** Commits/s; NaN when it was not measured. */
  readonly yardstick: number;
  readonly target: RunningTarget;
  readonly load: SkeinLoad;
  readonly process: LoadProcess;
}

export async function benchPairs({ report, scale, load, target, ackLevel, yardstick }: Bench): Promise<void> {
  report.section(`At \`${ackLevel}\`: ${PAIRS} pairs x ${OUTSTANDING} outstanding, 2 gateway processes, all groups on`);
  const lanes = await load.connectPairs(PAIRS);
  const before = await readStore(target);
  const result = await load.run({ lanes, outstanding: OUTSTANDING, warmMs: scale.warmMs, measureMs: scale.measureMs });
  checkHealthy(report, result);
  report.add({
    name: "delivered",
    value: result.delivered / result.seconds,
    unit: "/s",
    ...(ackLevel === "memory"
      ? {
          goal: {
            value: GOALS.deliveredOfYardstick * yardstick,
            reached: "at least",
            note: `${GOALS.deliveredOfYardstick} x yardstick`,
          },
        }
      : { note: `${formatNumber(result.delivered / result.seconds / yardstick)} x yardstick` }),
  });
  report.add({ name: "acked", value: result.acked / result.seconds, unit: "/s" });
  addLatencies(report, "ack, closed loop", result.ackMs, false);
  addLatencies(report, "delivery, closed loop", result.deliveryMs, false);
  addCpu(report, result);
  addCommands(report, result);
  const quietSeconds = await target.quiet();
  report.add({ name: "all groups caught up after", value: quietSeconds, unit: "s" });
  const after = await readStore(target);
  report.add({
    name: "Redis memory per message",
    value: (after.dataset - before.dataset) / result.sentInAll,
    unit: "bytes",
    note: `used_memory_dataset over ${formatNumber(result.sentInAll)} messages; AOF ${formatNumber((after.aof - before.aof) / result.sentInAll)} bytes`,
  });
}

export async function benchLatency({ report, scale, load, ackLevel }: Bench): Promise<void> {
  const lanes = await load.connectPairs(PAIRS);
  for (const perSecond of OPEN_LOOP_RATES) {
    report.section(`At \`${ackLevel}\`: open loop, ${formatNumber(perSecond)}/s over ${PAIRS} pairs`);
    const result = await load.run({ lanes, perSecond, warmMs: scale.warmMs, measureMs: scale.measureMs });
    checkHealthy(report, result);
    report.add({ name: "acked", value: result.acked / result.seconds, unit: "/s" });
    addLatencies(report, "ack", result.ackMs, perSecond === GOAL_RATE);
    addLatencies(report, "delivery", result.deliveryMs, perSecond === GOAL_RATE);
    addCpu(report, result);
    addCommands(report, result);
  }
}

export async function benchGroup({ report, scale, load }: Bench): Promise<void> {
  report.section(`Group of ${GROUP_MEMBERS}, ${GROUP_SENDERS} senders x ${OUTSTANDING} outstanding`);
  const lanes = await load.connectGroup(GROUP_MEMBERS, GROUP_SENDERS);
  const result = await load.run({ lanes, outstanding: OUTSTANDING, warmMs: scale.warmMs, measureMs: scale.measureMs });
  checkHealthy(report, result);
  report.add({
    name: "deliveries",
    value: result.delivered / result.seconds,
    unit: "/s",
    goal: { value: GOALS.groupDeliveriesPerSecond, reached: "at least" },
  });
  addLatencies(report, "delivery, closed loop", result.deliveryMs, false);
  addCpu(report, result);
}

export async function benchIdle({ report, scale, load, target, process }: Bench): Promise<void> {
  report.section(`${formatNumber(scale.idleConnections)} idle connections over ${target.gateways.length} gateways`);
  await process.disconnect();
  await target.quiet();
  const resident = () =>
    Object.entries(target.pids())
      .filter(([name]) => name.startsWith("gateway"))
      .reduce((sum, [, pid]) => sum + residentBytesOf(pid), 0);
  const before = resident();
  const seconds = await load.connectIdle(scale.idleConnections);
  await target.quiet();
  report.add({
    name: "resident memory of the gateways per connection",
    value: (resident() - before) / scale.idleConnections,
    unit: "bytes",
    goal: { value: GOALS.idleConnectionBytes, reached: "at most" },
    note: `connected at ${formatNumber(scale.idleConnections / seconds)}/s`,
  });
  await process.disconnect();
}

export function addLatencies(
  report: Report,
  name: string,
  { p50, p95, p99, max }: Percentiles,
  hasGoal: boolean,
): void {
  const goal = (value: number) => (hasGoal ? { goal: { value, reached: "at most" as const } } : {});
  report.add({ name: `${name} p50`, value: p50, unit: "ms", ...goal(GOALS.p50Ms) });
  report.add({ name: `${name} p95`, value: p95, unit: "ms" });
  report.add({ name: `${name} p99`, value: p99, unit: "ms", ...goal(GOALS.p99Ms), note: `max ${formatNumber(max)}` });
}

/** CPU by process: what to make cheaper next is the longest line. */
function addCpu(report: Report, { cpu, machine, acked, seconds }: Measured): void {
  const thousands = acked / 1_000;
  const ours = Object.values(cpu).reduce((sum, used) => sum + totalSeconds(used), 0);
  report.add({
    name: "CPU of all per 1 000 messages",
    value: ours / thousands,
    unit: "s",
    note: `${formatNumber(ours / seconds)} of ${machine.cores} cores; ${formatNumber(machine.busyCores - ours / seconds)} used by the kernel for all or by others`,
  });
  for (const [name, used] of Object.entries(cpu).sort(([, a], [, b]) => totalSeconds(b) - totalSeconds(a))) {
    const total = totalSeconds(used);
    report.add({
      name: `CPU of ${name} per 1 000 messages`,
      value: total / thousands,
      unit: "s",
      note: `${Math.round((total / seconds) * 100)} % of a core, ${Math.round((used.systemSeconds / total) * 100)} % of it in the kernel`,
    });
  }
}

/** What Redis does per message: a batch that is too small shows as calls. */
function addCommands(report: Report, { commands, acked }: Measured): void {
  for (const { name, calls, micros } of commands.slice(0, COMMANDS_SHOWN)) {
    report.add({
      name: `Redis in ${name} per message`,
      value: micros / acked,
      unit: "µs",
      note: `${formatNumber(calls / acked)} calls a message, ${formatNumber(micros / calls)} µs each`,
    });
  }
}

/** Says what went wrong: refusals, messages that did not reach everybody. */
export function checkHealthy(report: Report, { refused, unfinished }: Measured): void {
  for (const [error, count] of Object.entries(refused)) report.line(`refused ${count} times: ${error}`);
  if (unfinished > 0) report.line(`${unfinished} messages were not delivered within 10 s of the end`);
}

async function readStore({ redis }: RunningTarget): Promise<{ dataset: number; aof: number }> {
  return {
    dataset: await infoNumber(redis, "memory", "used_memory_dataset"),
    aof: await infoNumber(redis, "persistence", "aof_current_size"),
  };
}
