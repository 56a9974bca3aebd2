/** The parts of `bench chat` without a Skein around them: the yardstick and the ceiling of our own commit. */

import { type Ceiling, measureCeiling } from "./ceiling.ts";
import { GOALS, type Scale } from "./goals.ts";
import { formatNumber, type Report } from "./report.ts";
import { measureYardstick } from "./yardstick.ts";

const WINDOWS = [1, 16, 64];

/** Returns the yardstick, commits/s with AOF everysec. */
export async function benchYardstick(report: Report, scale: Scale): Promise<number> {
  report.section("Yardstick: reference commits by redis-benchmark, 50 connections x pipeline 64, 1 000 conversations");
  const options = { runs: scale.yardstickRuns, commits: scale.yardstickCommits };
  const yardstick = await measureYardstick("everysec", options);
  report.add({ name: "AOF everysec", value: yardstick, unit: "/s" });
  report.add({ name: "AOF always", value: await measureYardstick("always", options), unit: "/s" });
  return yardstick;
}

export async function benchCeiling(report: Report, scale: Scale, yardstick: number): Promise<void> {
  report.section("Our own commit, alone on a Redis, 1 000 conversations, 2 load processes");
  for (const fsync of ["everysec", "always"] as const) {
    for (const window of WINDOWS) {
      const ceiling = await measureCeiling(fsync, window, scale.ceilingMs);
      const hasGoal = fsync === "everysec" && window > 1;
      report.add({
        name: `${window === 1 ? "single" : `batches of ${window}`}, AOF ${fsync}`,
        value: ceiling.perSecond,
        unit: "/s",
        note: describe(ceiling, yardstick),
        ...(hasGoal
          ? {
              goal: {
                value: GOALS.ceilingOfYardstick * yardstick,
                reached: "at least",
                note: `${GOALS.ceilingOfYardstick} x yardstick`,
              },
            }
          : {}),
      });
    }
  }
}

function describe(ceiling: Ceiling, yardstick: number): string {
  const { perSecond, redisMicros, redisBusy, bytesPerSend, aofBytesPerSend } = ceiling;
  return [
    `${formatNumber(perSecond / yardstick)} x yardstick`,
    `Redis ${formatNumber(redisMicros)} µs a send, ${Math.round(redisBusy * 100)} % busy`,
    `${formatNumber(bytesPerSend)} bytes, ${formatNumber(aofBytesPerSend)} of AOF`,
  ].join("; ");
}
