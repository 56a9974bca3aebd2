/**
 * A process with one or more roles: `bun workers/unit.ts --instance <name> <role>…`. The supervisor starts it, hears by IPC when it
 * is ready, and stops it with SIGTERM; when the supervisor is gone it stops by itself.
 */

import { parseArgs } from "node:util";
import { readConfig } from "../lib/config.ts";
import { AppError } from "../lib/errors.ts";
import { isRole, type Role } from "../lib/rpc/index.ts";
import { type RunningServices, startServices } from "../lib/service.ts";
import { openUnit, type Worker } from "./context.ts";

/** Roles are loaded when asked for: a gateway's process does not carry SQLite. */
const WORKERS: Partial<Record<Role, () => Promise<{ worker: Worker }>>> = {
  gateway: () => import("./gateway/main.ts"),
  logic: () => import("./logic/main.ts"),
  archive: () => import("./archive/main.ts"),
  orders: () => import("./examples/orders.ts"),
  trades: () => import("./examples/trades.ts"),
  ads: () => import("./examples/ads.ts"),
};

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { instance: { type: "string", default: `unit.${process.pid}` } },
});
const roles = positionals.map((name) => {
  if (!isRole(name) || WORKERS[name] === undefined) throw new AppError("INVALID", `there is no role ${name}`);
  return name;
});

const config = readConfig();
const unit = await openUnit(config, values.instance);
let running: RunningServices | undefined;
let stopping: Promise<void> | undefined;

function stop(): Promise<void> {
  stopping ??= (async () => {
    await running?.stop();
    await unit.close();
    process.exit(0);
  })();
  return stopping;
}

process.on("SIGTERM", stop);
process.on("disconnect", stop);
// The terminal's Ctrl-C reaches every process; the supervisor decides the order.
process.on("SIGINT", () => undefined);

const services = [];
for (const role of roles) {
  const { worker } = await WORKERS[role]!();
  services.push(...(await worker.build(unit.contextOf(role))));
}
running = await startServices(services);
process.send?.({ type: "ready" });
