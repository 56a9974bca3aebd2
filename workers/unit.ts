/**
 * One process of Skein: `bun workers/unit.ts --instance <name> <role>…`, started and watched by the supervisor. It says by IPC
 * when it is ready or why it cannot be. SIGTERM stops it softly; the supervisor's death (IPC closes) does so in less time;
 * anything that nobody caught ends it at once, for the supervisor starts a fresh one.
 */

import { parseArgs } from "node:util";
import { readConfig } from "../lib/config.ts";
import { AppError } from "../lib/errors.ts";
import { isRole, type Role } from "../lib/rpc/index.ts";
import { type RunningServices, type Service, SHUTDOWN_MS, startServices } from "../lib/service.ts";
import { openUnitContext, type UnitContext, type Worker } from "./context.ts";

/** What a unit tells the supervisor. */
export type UnitReport =
  | { readonly type: "ready" }
  /** `isFinal`: starting it again would end the same way. */
  | { readonly type: "failed"; readonly reason: string; readonly isFinal: boolean };

/** Without its supervisor a unit has Redis only for a moment longer (lib/redis/embedded.ts). */
const ORPHAN_SHUTDOWN_MS = 1_500;
/** A service that does not stop is left behind: its leases expire. */
const EXIT_GRACE_MS = 1_000;

/** Every role that this build has. A role is loaded only where it runs. */
const WORKERS: Partial<Record<Role, () => Promise<{ worker: Worker }>>> = {
  archive: () => import("./archive/main.ts"),
  logic: () => import("./logic/main.ts"),
  pusher: () => import("./pusher/main.ts"),
  extlogic: () => import("./extlogic/main.ts"),
  scheduler: () => import("./scheduler/main.ts"),
  orders: () => import("./examples/orders.ts"),
  trades: () => import("./examples/trades.ts"),
  ads: () => import("./examples/ads.ts"),
  gateway: () => import("./gateway/main.ts"),
};

/** The roles that `bun run workers` starts by default, in the order in which a shared unit starts them: callers last. */
export const UNIT_ROLES = Object.keys(WORKERS) as readonly Role[];

let context: UnitContext | undefined;
let running: RunningServices | undefined;
let isStopping = false;

async function start(): Promise<void> {
  const { instance, roles } = readArguments();
  // Before any connection: a connection knows the scripts that were defined when it was opened (lib/redis/script.ts).
  const workers: Worker[] = [];
  for (const role of roles) workers.push((await WORKERS[role]!()).worker);
  context = await openUnitContext(readConfig(), instance);
  const services: Service[] = [...context.services];
  for (const worker of workers) services.push(...(await worker.build(context.forRole(worker.role))));
  const started = await startServices(services);
  running = started;
  if (isStopping) return;
  report({ type: "ready" });
}

function readArguments(): { instance: string; roles: Role[] } {
  const { values, positionals } = parseArgs({ options: { instance: { type: "string" } }, allowPositionals: true });
  const asked = new Set(positionals);
  for (const name of asked) {
    if (!isRole(name) || !(name in WORKERS)) throw new AppError("INVALID", `there is no role ${name}`);
  }
  if (!values.instance || asked.size === 0) throw new AppError("INVALID", "usage: unit.ts --instance <name> <role>…");
  return { instance: values.instance, roles: UNIT_ROLES.filter((role) => asked.has(role)) };
}

async function stop(shutdownMs: number): Promise<void> {
  if (isStopping) return;
  isStopping = true;
  setTimeout(() => process.exit(1), shutdownMs + EXIT_GRACE_MS).unref();
  let code = 0;
  try {
    await running?.stop({ shutdownMs });
  } catch (error) {
    context?.log.error({ error }, "some services did not stop cleanly");
    code = 1;
  }
  await context?.close();
  process.exit(code);
}

function report(message: UnitReport): void {
  if (process.connected) process.send?.(message);
}

function crash(what: string, error: unknown): void {
  if (context) context.log.error({ error }, what);
  else console.error(what, error);
  process.exit(1);
}

if (import.meta.main) {
  process.on("uncaughtException", (error) => crash("an error that nobody caught", error));
  process.on("unhandledRejection", (error) => crash("a rejection that nobody caught", error));
  // Ctrl-C reaches the whole terminal group; the supervisor decides who stops when.
  process.on("SIGINT", () => undefined);
  process.on("SIGTERM", () => void stop(SHUTDOWN_MS));
  process.on("disconnect", () => void stop(ORPHAN_SHUTDOWN_MS));
  try {
    await start();
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    const isFinal = error instanceof AppError && !error.retryable;
    context?.log.error({ error }, "could not start");
    report({ type: "failed", reason, isFinal });
    await context?.close();
    process.exit(1);
  }
}
