/** The parent's side of the generator process: start, latest counts, stop. */

import type { GeneratorCommand, GeneratorEvent, GeneratorPlan } from "./generator.ts";
import type { Counts } from "./lane.ts";

/** After the faults everything is healthy: what is under way must be acknowledged within this. */
const SETTLE_MS = 60_000;

export interface GeneratorProcess {
  /** As last reported, at most some 50 ms ago. */
  readonly counts: Counts;
  /** The longest time without an acknowledgement since the last call, in ms, to within the 50 ms of a report. */
  takeSilenceMs(): number;
  /** Connections that the server told to stay away: none in health. */
  readonly refusals: readonly string[];
  /** Stops new messages and waits until all under way are acknowledged. Throws when they are not in time. */
  settle(): Promise<Counts>;
  kill(): Promise<void>;
}

export function startGenerator(plan: GeneratorPlan): GeneratorProcess {
  let counts: Counts = { ok: 0, duplicate: 0, failed: 0, unknown: 0, refused: 0, disorder: 0 };
  const refusals: string[] = [];
  let lastAckMs = performance.now();
  let silenceMs = 0;
  const settled = Promise.withResolvers<Counts>();
  // Nobody may be waiting yet when the process ends early.
  settled.promise.catch(() => undefined);
  const take = (latest: Counts) => {
    const now = performance.now();
    silenceMs = Math.max(silenceMs, now - lastAckMs);
    if (latest.ok > counts.ok) lastAckMs = now;
    counts = latest;
  };
  const tell = (command: GeneratorCommand) => child.send(command);
  const child = Bun.spawn([process.execPath, new URL("./generator.ts", import.meta.url).pathname], {
    stdin: "ignore",
    stdout: "inherit",
    stderr: "inherit",
    ipc(event: GeneratorEvent) {
      if (event.type === "refused") refusals.push(event.reason);
      else take(event.counts);
      if (event.type === "settled") settled.resolve(event.counts);
    },
    onExit: () => settled.reject(new Error("the generator process ended before it had settled")),
  });
  tell({ type: "start", plan });
  return {
    get counts() {
      return counts;
    },
    takeSilenceMs() {
      const longest = silenceMs;
      silenceMs = 0;
      return longest;
    },
    refusals,
    async settle() {
      tell({ type: "stop" });
      const late = setTimeout(
        () => settled.reject(new Error(`sends were still not acknowledged ${SETTLE_MS} ms after the last fault`)),
        SETTLE_MS,
      );
      try {
        return await settled.promise;
      } finally {
        clearTimeout(late);
      }
    },
    async kill() {
      child.kill("SIGKILL");
      await child.exited;
    },
  };
}
