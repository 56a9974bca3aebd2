/** The three campaigns in small, on real processes: the full sizes are `bun run chaos …`. */

import { expect, test } from "bun:test";
import { type CampaignName, runCampaign } from "../../scripts/chaos/campaign.ts";

/** A start of all processes, the faults, the healing and the check, on a machine that also runs other tests. */
const TIMEOUT_MS = 120_000;

/** Some 300 sends a second: at full speed most of the CPU time went into what is sent while a victim sleeps. */
const PAUSE_MS = 300;

const CAMPAIGNS: [CampaignName, number][] = [
  ["redis-kill", 2],
  ["worker-kill", 3],
  ["worker-pause", 1],
];

test.each(CAMPAIGNS)(
  "%s: nothing lost, doubled or out of order",
  async (campaign, cycles) => {
    const lines: string[] = [];
    const seed = Math.floor(Math.random() * 1_000_000);
    const result = await runCampaign({
      campaign,
      cycles,
      seed,
      keep: false,
      acksPerCycle: 200,
      pauseMs: PAUSE_MS,
      print: (line) => lines.push(line),
    }).catch((error: unknown) => {
      throw new Error(lines.join("\n"), { cause: error });
    });
    if (!result.isClean) throw new Error(lines.join("\n"));
    expect(Object.values(result.verdict)).toEqual(Object.values(result.verdict).map(() => 0));
    expect(result.outcomes.ok).toBeGreaterThanOrEqual(cycles * 200);
  },
  TIMEOUT_MS,
);
