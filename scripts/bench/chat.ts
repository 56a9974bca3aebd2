/**
 * `bench chat`: the yardstick, the ceiling of our own commit, and then a whole Skein at `memory` and at `disk`. Each figure is
 * printed beside its goal as it comes.
 */

import { startLoadProcess } from "../load/index.ts";
import { benchCeiling, benchYardstick } from "./commit-sections.ts";
import { FULL, QUICK } from "./goals.ts";
import { type Hardware, printHardware, readHardware } from "./hardware.ts";
import { printProfiles } from "./profile.ts";
import { createReport, type Figure } from "./report.ts";
import { createSkeinLoad } from "./skein-load.ts";
import { type Bench, benchGroup, benchIdle, benchLatency, benchPairs } from "./skein-sections.ts";
import { startTarget } from "./target.ts";

/** Idle connections come first of those on a Skein: after load a gateway has room in its heap, and they would seem to cost less. */
export const SECTIONS = ["yardstick", "ceiling", "idle", "pairs", "latency", "group"] as const;
export type Section = (typeof SECTIONS)[number];
export type BenchLevel = "memory" | "disk";

export interface ChatBenchOptions {
  /** Shorter runs and fewer idle connections: for a look, not for a record. */
  readonly isQuick: boolean;
  readonly sections: readonly Section[];
  readonly levels: readonly BenchLevel[];
  /** Profiles every process of Skein and prints where its CPU time goes. Slows it down. */
  readonly isProfiling: boolean;
  readonly print: (line: string) => void;
}

export interface ChatBench {
  readonly hardware: Hardware;
  readonly figures: readonly Figure[];
}

/** Fan-out and idle connections do not depend on the ack level: measured at the first one only. */
const ONCE: readonly Section[] = ["group", "idle"];

export async function benchChat(options: ChatBenchOptions): Promise<ChatBench> {
  const { sections, levels, print } = options;
  const scale = options.isQuick ? QUICK : FULL;
  const report = createReport(print);
  const hardware = await readHardware();
  printHardware(hardware, print);
  const yardstick = sections.includes("yardstick") ? await benchYardstick(report, scale) : Number.NaN;
  if (sections.includes("ceiling")) await benchCeiling(report, scale, yardstick);
  for (const [index, ackLevel] of levels.entries()) {
    const wanted = sections.filter((section) => index === 0 || !ONCE.includes(section));
    if (!wanted.some((section) => section in PARTS)) continue;
    const target = await startTarget(ackLevel, options.isProfiling);
    const process = startLoadProcess();
    try {
      const load = createSkeinLoad(target, process);
      const bench: Bench = { report, scale, ackLevel, yardstick, target, load, process };
      for (const section of wanted) await PARTS[section as keyof typeof PARTS]?.(bench);
    } finally {
      await process.stop();
      await target.stop();
    }
    if (target.profileFolder !== undefined) printProfiles(target.profileFolder, print);
  }
  return { hardware, figures: report.figures };
}

const PARTS = { pairs: benchPairs, latency: benchLatency, group: benchGroup, idle: benchIdle };
