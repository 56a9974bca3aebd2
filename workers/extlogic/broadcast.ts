/** Runs broadcasts, a piece at a time. Every instance of extlogic looks; a lease lets one of them run each. */

import { type RunnerParts, runBroadcasts } from "../../lib/im/index.ts";
import { createRepeating, type Service } from "../../lib/service.ts";

/** Many small pieces and not a few large ones: a live message must not stand behind a tenth of a second's worth of commands. */
const STEP_MS = 20;
/** While none runs; a paused one that is resumed waits for as long. */
const LOOK_MS = 500;

export function createBroadcastRunner(parts: RunnerParts): Service {
  let lookAtMs = 0;
  async function act(): Promise<void> {
    if (performance.now() < lookAtMs) return;
    if ((await runBroadcasts(parts)) === 0) lookAtMs = performance.now() + LOOK_MS;
  }
  return createRepeating("broadcasts", {
    ...{ clock: parts.clock, everyMs: STEP_MS, act },
    report: (error) => parts.log.warn({ error }, "a broadcast's step failed; the next one goes on"),
  });
}
