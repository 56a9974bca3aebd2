/**
 * Load on a running Skein from a process of its own: connections, closed-loop and open-loop sends, counts and latencies. Used by
 * `bun run bench`. The parent's side is here; the child's is process.ts.
 *
 *   const load = startLoadProcess();
 *   await load.connect(sockets);
 *   const { acked, delivered } = await load.run({ run: "r1", lanes, textBytes: 100, outstanding: 10, warmMs: 1_000, measureMs: 5_000 });
 *   await load.stop();
 */

import type { Command, Event, Load, LoadResult } from "./contract.ts";

export type { Lane, Load, LoadResult, Percentiles } from "./contract.ts";

export interface LoadProcess {
  readonly pid: number;
  /** Opens and authenticates the sockets, in place of those open before; resolves with the seconds it took. */
  connect(sockets: readonly { readonly url: string; readonly token: string }[]): Promise<number>;
  disconnect(): Promise<void>;
  /** `onPhase` is called when the measured time begins and ends, as soon as the child says so. */
  run(load: Load, onPhase?: (phase: "measuring" | "measured") => void): Promise<LoadResult>;
  stop(): Promise<void>;
}

export function startLoadProcess(): LoadProcess {
  let onEvent: ((event: Event) => void) | undefined;
  const child = Bun.spawn([process.execPath, new URL("./process.ts", import.meta.url).pathname], {
    stdin: "ignore",
    stdout: "inherit",
    stderr: "inherit",
    ipc: (event: Event) => onEvent?.(event),
    onExit: () => onEvent?.({ type: "failed", reason: "the load process ended" }),
  });

  const ask = <T extends Event["type"]>(
    command: Command,
    wanted: T,
    onOther?: (event: Event) => void,
  ): Promise<Extract<Event, { type: T }>> =>
    new Promise((resolve, reject) => {
      onEvent = (event) => {
        if (event.type === "failed") reject(new Error(event.reason));
        else if (event.type === wanted) resolve(event as Extract<Event, { type: T }>);
        else onOther?.(event);
      };
      child.send(command);
    });

  return {
    pid: child.pid,
    async connect(sockets) {
      await ask({ type: "disconnect" }, "disconnected");
      return (await ask({ type: "connect", sockets }, "connected")).seconds;
    },
    async disconnect() {
      await ask({ type: "disconnect" }, "disconnected");
    },
    async run(load, onPhase) {
      const done = await ask({ type: "run", load }, "done", (event) => {
        if (event.type === "measuring" || event.type === "measured") onPhase?.(event.type);
      });
      return done.result;
    },
    async stop() {
      onEvent = undefined;
      child.kill();
      await child.exited;
    },
  };
}
