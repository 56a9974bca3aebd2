/**
 * `bench fanout`: one message to 10, 100, 1 000 and 10 000 members of a group and to a channel's subscribers, all of them connected,
 * over two gateway processes; and that the commit does not know how many they are. The load comes from a process of its own, which
 * counts every member's copy of every message.
 */

import { startLoadProcess } from "../load/index.ts";
import { measureCeiling } from "./ceiling.ts";
import { FANOUT_GOALS, type FanoutScale } from "./goals.ts";
import { type Hardware, printHardware, readHardware } from "./hardware.ts";
import { printProfiles } from "./profile.ts";
import { createReport, type Figure, formatNumber, type Report } from "./report.ts";
import { createSkeinLoad, type Measured, type SkeinLoad } from "./skein-load.ts";
import { addLatencies, checkHealthy } from "./skein-sections.ts";
import { startTarget } from "./target.ts";
import { type Cpu, totalSeconds } from "./usage.ts";

export const FANOUT_SIZES = [10, 100, 1_000, 10_000];
/** As many groups of each size as the commit is measured on: their members' hashes do not all lie in the processor's cache. */
const COMMIT_GROUPS = 16;
/** Sends in a script: the script's own work is what is asked for, not how Redis wakes up for it. */
const COMMIT_WINDOW = 16;
/** Members who send, where so many may. */
const SENDERS = 10;
/** Copies under way in a closed loop: enough that nobody waits for work, some 10 MB of frames. */
const COPIES_OUTSTANDING = 20_000;
const OUTSTANDING_MAX = 10;
/** Copies a second in the open loop: what the latency is told at, well below what is possible. */
const CALM_COPIES_PER_SECOND = 10_000;
/** As skein-load.ts names it. */
const LOAD = "load generator";
const PROCESSES_SHOWN = 5;

export interface FanoutBenchOptions {
  readonly scale: FanoutScale;
  /** Members of the groups, ascending; the channel has as many as the largest. */
  readonly sizes: readonly number[];
  /** Profiles every process of Skein and prints where its CPU time goes. Slows it down. */
  readonly isProfiling: boolean;
  readonly print: (line: string) => void;
}

interface Audience {
  readonly name: string;
  readonly type: "group" | "channel";
  readonly members: number;
}

export async function benchFanout(
  options: FanoutBenchOptions,
): Promise<{ readonly hardware: Hardware; readonly figures: readonly Figure[] }> {
  const { scale, sizes, print } = options;
  const report = createReport(print);
  const hardware = await readHardware();
  printHardware(hardware, print);
  await benchCommit(report, scale, sizes);
  const largest = sizes.at(-1)!;
  const audiences: Audience[] = [
    ...sizes.map((members) => ({ name: `Group of ${formatNumber(members)}`, type: "group" as const, members })),
    { name: `Channel of ${formatNumber(largest)}`, type: "channel", members: largest },
  ];
  const target = await startTarget("memory", options.isProfiling);
  const process = startLoadProcess();
  try {
    const load = createSkeinLoad(target, process);
    const conversations = await load.connectCrowd(audiences);
    await target.quiet();
    for (const [i, audience] of audiences.entries()) {
      await benchAudience({ report, scale, load, audience, conversation: conversations[i]! });
      await target.quiet();
    }
  } finally {
    await process.stop();
    await target.stop();
  }
  if (target.profileFolder !== undefined) printProfiles(target.profileFolder, print);
  return { hardware, figures: report.figures };
}

async function benchCommit(report: Report, { commitMs }: FanoutScale, sizes: readonly number[]): Promise<void> {
  report.section(`The commit alone: Redis' CPU per send, ${COMMIT_WINDOW} sends a script, ${COMMIT_GROUPS} groups`);
  let smallest = Number.NaN;
  for (const members of sizes) {
    const { redisMicros, perSecond } = await measureCeiling("everysec", COMMIT_WINDOW, commitMs, {
      conversations: COMMIT_GROUPS,
      members,
    });
    if (members === sizes[0]) smallest = redisMicros;
    const isLargest = members === sizes.at(-1);
    const goal = { value: FANOUT_GOALS.commitOfSmallest * smallest, reached: "at most", note: "flat" } as const;
    report.add({
      name: `groups of ${formatNumber(members)}`,
      value: redisMicros,
      unit: "µs",
      note: `${formatNumber(redisMicros / smallest)} of the smallest; ${formatNumber(perSecond)}/s`,
      ...(isLargest ? { goal } : {}),
    });
  }
}

interface AudienceBench {
  readonly report: Report;
  readonly scale: FanoutScale;
  readonly load: SkeinLoad;
  readonly audience: Audience;
  readonly conversation: string;
}

async function benchAudience({ report, scale, load, audience, conversation }: AudienceBench): Promise<void> {
  const { name, type, members } = audience;
  report.section(`${name}, all connected, over 2 gateways`);
  // In a channel its owner speaks.
  const senders = type === "channel" ? 1 : Math.max(1, Math.min(SENDERS, Math.floor(COPIES_OUTSTANDING / members)));
  const lanes = Array.from({ length: senders }, (_, sender) => ({ sender, conversation, receivers: members - 1 }));
  const outstanding = Math.max(1, Math.min(OUTSTANDING_MAX, Math.floor(COPIES_OUTSTANDING / members / senders)));
  const { warmMs, measureMs } = scale;
  const full = await load.run({ lanes, outstanding, warmMs, measureMs });
  checkHealthy(report, full);
  addRates(report, full, `${senders} senders x ${outstanding} outstanding`);
  const perSecond = CALM_COPIES_PER_SECOND / members;
  const calm = await load.run({ lanes, perSecond, warmMs, measureMs });
  checkHealthy(report, calm);
  addLatencies(report, `delivery at ${formatNumber(perSecond)} messages/s`, calm.deliveryMs, false);
}

function addRates(report: Report, result: Measured, note: string): void {
  const { delivered, acked, seconds, cpu, deliveryMs } = result;
  const messages = `${formatNumber(acked / seconds)} messages/s`;
  report.add({ name: "deliveries", value: delivered / seconds, unit: "/s", note: `${note}; ${messages}` });
  const p50 = `p50 ${formatNumber(deliveryMs.p50)}`;
  report.add({ name: "delivery p99, closed loop", value: deliveryMs.p99, unit: "ms", note: p50 });
  const micros = (used: Cpu) => (totalSeconds(used) * 1e6) / delivered;
  const processes = Object.entries(cpu).sort(([, a], [, b]) => totalSeconds(b) - totalSeconds(a));
  report.add({
    name: "CPU per delivery, all of Skein",
    value: processes.reduce((sum, [name, used]) => sum + (name === LOAD ? 0 : micros(used)), 0),
    unit: "µs",
    note: processes
      .slice(0, PROCESSES_SHOWN)
      .map(([name, used]) => `${name} ${formatNumber(micros(used))}`)
      .join(", "),
  });
  const inKernel = processes
    .filter(([name]) => name.startsWith("gateway"))
    .map(([, { systemSeconds }]) => systemSeconds);
  report.add({
    name: "of it in the kernel for the gateways",
    value: (inKernel.reduce((sum, each) => sum + each, 0) * 1e6) / delivered,
    unit: "µs",
    note: "frames of one moment to one socket are one write",
  });
}
