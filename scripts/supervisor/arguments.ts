/** The command line of `bun run workers`. */

import { parseArgs } from "node:util";
import { AppError } from "../../lib/errors.ts";
import { isRole, type Role } from "../../lib/rpc/index.ts";
import { UNIT_ROLES } from "../../workers/unit.ts";

export const USAGE = `Usage: bun run workers [role[=instances]…] [--processes]

Starts Skein: without roles all of them (${UNIT_ROLES.join(", ")}), in one process.

  role=instances   several instances of a role, e.g. gateway=2; the further ones are processes of their own
  --processes      every role in a process of its own
  --help           this text

Settings are environment variables: SKEIN_PORT (7400; further gateways take the next ports), SKEIN_HOST, SKEIN_REDIS_URL (none: an own
Redis), SKEIN_DATA_DIR (.skein), SKEIN_ACK_LEVEL (disk), SKEIN_LOG_LEVEL (info), … A fault names the setting and what it may be.`;

/** More instances of a role on one machine than this is a typing error. */
const INSTANCES_MAX = 64;

export interface Arguments {
  readonly instances: ReadonlyMap<Role, number>;
  readonly processes: boolean;
}

/** Throws AppError INVALID naming the argument. */
export function readArguments(argv: readonly string[]): Arguments | "help" {
  let parsed: { values: { processes?: boolean; help?: boolean }; positionals: string[] };
  try {
    parsed = parseArgs({
      args: [...argv],
      options: { processes: { type: "boolean" }, help: { type: "boolean" } },
      allowPositionals: true,
    });
  } catch (error) {
    throw new AppError("INVALID", `${(error as Error).message}\n\n${USAGE}`);
  }
  if (parsed.values.help) return "help";
  const instances = new Map<Role, number>();
  for (const positional of parsed.positionals) {
    const [name, count = "1"] = positional.split("=");
    if (!isRole(name!) || !UNIT_ROLES.includes(name)) {
      throw new AppError("INVALID", `there is no role ${name}; roles are ${UNIT_ROLES.join(", ")}`);
    }
    if (!/^\d+$/.test(count) || Number(count) < 1 || Number(count) > INSTANCES_MAX) {
      throw new AppError("INVALID", `${positional}: instances must be a whole number from 1 to ${INSTANCES_MAX}`);
    }
    instances.set(name, Number(count));
  }
  if (instances.size === 0) for (const role of UNIT_ROLES) instances.set(role, 1);
  // A single `gateway=2` means all roles, two gateways: what one types to try it.
  const isOnlyCounts =
    parsed.positionals.length > 0 && parsed.positionals.every((positional) => positional.includes("="));
  if (isOnlyCounts) for (const role of UNIT_ROLES) if (!instances.has(role)) instances.set(role, 1);
  return { instances, processes: parsed.values.processes ?? false };
}
