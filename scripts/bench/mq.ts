/**
 * `bench mq`: the queue beside the bare stream commands and beside BullMQ, in one run on Redis servers of its own. Machines differ and
 * so do hours: the ratios count, and of the rates the runs of all are taken by turns.
 */

import { MQ_FULL, MQ_QUICK } from "./goals.ts";
import { type Hardware, printHardware, readHardware } from "./hardware.ts";
import { benchBacklog, benchGroups, benchPoison, benchRates, benchSides, type MqBench } from "./mq-sections.ts";
import type { Fsync } from "./redis.ts";
import { createReport, type Figure } from "./report.ts";

export const MQ_SECTIONS = ["rates", "sides", "groups", "backlog", "poison"] as const;
export type MqSection = (typeof MQ_SECTIONS)[number];
export type MqLevel = "memory" | "disk";

export interface MqBenchOptions {
  /** Fewer messages and single runs: for a look, not for a record. */
  readonly isQuick: boolean;
  readonly sections: readonly MqSection[];
  readonly levels: readonly MqLevel[];
  readonly print: (line: string) => void;
}

const FSYNC: Readonly<Record<MqLevel, Fsync>> = { memory: "everysec", disk: "always" };
const PARTS: Readonly<Record<MqSection, (bench: MqBench) => Promise<void>>> = {
  rates: benchRates,
  sides: benchSides,
  groups: benchGroups,
  backlog: benchBacklog,
  poison: benchPoison,
};

export async function benchMq(
  options: MqBenchOptions,
): Promise<{ readonly hardware: Hardware; readonly figures: readonly Figure[] }> {
  const report = createReport(options.print);
  const hardware = await readHardware();
  printHardware(hardware, options.print);
  const scale = options.isQuick ? MQ_QUICK : MQ_FULL;
  for (const level of options.levels) {
    for (const section of options.sections) await PARTS[section]({ report, scale, level, fsync: FSYNC[level] });
  }
  return { hardware, figures: report.figures };
}
