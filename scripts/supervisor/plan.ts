/** Which processes run which roles, under which names and ports. */

import type { Config } from "../../lib/config.ts";
import { freePort } from "../../lib/free-port.ts";
import { LAYERS, type Role } from "../../lib/rpc/index.ts";
import { UNIT_ROLES } from "../../workers/unit.ts";
import type { Arguments } from "./arguments.ts";

export interface PlannedUnit {
  /** For people and `run.json`: the role, or `all`; further instances `gateway.2`. */
  readonly name: string;
  /** The name in consumer groups and the registry: the same at each restart, other than any other installation's. */
  readonly instance: string;
  readonly roles: readonly Role[];
  /** The highest layer of its roles: higher tiers stop first. Downstream services stop with the gateways. */
  readonly tier: number;
  /** Heavy work alone, for whose answer nobody waits. */
  readonly isHeavy: boolean;
  readonly environment: Readonly<Record<string, string>>;
  /** Of its gateway, if it has one. */
  readonly url: string | undefined;
}

export function planUnits({ instances, processes }: Arguments, config: Config, installation: string): PlannedUnit[] {
  const roles = UNIT_ROLES.filter((role) => instances.has(role));
  const shared = processes || roles.length === 1 ? [] : roles;
  const single = roles.flatMap((role) => {
    const own = Array.from({ length: instances.get(role)! }, (_, i) => ({ role, number: i + 1 }));
    return shared.length > 0 ? own.slice(1) : own;
  });
  const named = [
    ...(shared.length > 0 ? [{ name: "all", roles: shared }] : []),
    ...single.map(({ role, number }) => ({ name: number === 1 ? role : `${role}.${number}`, roles: [role] })),
  ];
  let gateways = 0;
  return named.map((unit) => {
    const hasGateway = unit.roles.includes("gateway");
    const port = hasGateway ? portOf(config.port, gateways++) : undefined;
    return {
      ...unit,
      instance: `${installation}.${unit.name}`,
      tier: Math.max(...unit.roles.map((role) => LAYERS[role].layer || LAYERS.gateway.layer)),
      isHeavy: unit.roles.every((role) => role === "extlogic"),
      environment: port === undefined ? {} : { SKEIN_PORT: String(port) },
      url: port === undefined ? undefined : urlOf(config.host, port),
    };
  });
}

function urlOf(host: string, port: number): string {
  const url = new URL("http://localhost");
  url.hostname = host.includes(":") ? `[${host}]` : host;
  url.port = String(port);
  return url.origin;
}

/** The asked port and those behind it; 0 asks for any that is free. */
function portOf(asked: number, index: number): number {
  return asked === 0 ? freePort() : asked + index;
}
