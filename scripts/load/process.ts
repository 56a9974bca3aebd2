/** A load process: opens connections and runs load as its parent tells it (contract.ts). Its own process, so that its CPU time is told apart. */

import type { Command, Event } from "./contract.ts";
import { runLoad } from "./run.ts";
import { openSockets, type Sockets } from "./sockets.ts";

const tell = (event: Event) => process.send?.(event);
let sockets: Sockets | undefined;

async function obey(command: Command): Promise<void> {
  switch (command.type) {
    case "connect": {
      const startedMs = performance.now();
      sockets = await openSockets(command.sockets);
      tell({ type: "connected", count: sockets.wires.length, seconds: (performance.now() - startedMs) / 1_000 });
      return;
    }
    case "run": {
      if (!sockets) throw new Error("run before connect");
      tell({ type: "done", result: await runLoad(sockets, command.load, (phase) => tell({ type: phase })) });
      return;
    }
    case "disconnect":
      sockets?.close();
      sockets = undefined;
      tell({ type: "disconnected" });
      return;
  }
}

process.on("message", (command: Command) => {
  obey(command).catch((error: Error) => tell({ type: "failed", reason: error.message }));
});
process.on("disconnect", () => process.exit(0));
