/** Runs broadcasts, a piece at a time. Every instance of extlogic looks; a lease lets one of them run each. */

import { type RunnerParts, runBroadcasts } from "../../lib/im/index.ts";
import { createRepeating, type Service } from "../../lib/service.ts";

/** Ten small pieces a second and not a large one: what comes with a live message must not stand behind a second's worth. */
const STEP_MS = 100;

export function createBroadcastRunner(parts: RunnerParts): Service {
  return createRepeating("broadcasts", {
    ...{ clock: parts.clock, everyMs: STEP_MS, act: () => runBroadcasts(parts) },
    report: (error) => parts.log.warn({ error }, "a broadcast's step failed; the next one goes on"),
  });
}
