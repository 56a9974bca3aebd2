/** What /readyz answers: Redis and the ack level in force, logic, the delivery stream, the roles that are alive, and draining. */

import type { Check } from "../../lib/observability/index.ts";
import type { RpcNode } from "../../lib/rpc/index.ts";
import type { Deliveries } from "./deliveries.ts";
import type { Logic } from "./methods.ts";
import type { Sessions } from "./sessions.ts";

/** Without these a chat message does not get through, or is not kept. */
const REQUIRED = ["gateway", "logic", "archive"];

export interface ChecksParts {
  /** Of the unit: Redis and the ack level in force. */
  readonly checks: readonly Check[];
  readonly logic: Logic;
  readonly rpc: RpcNode;
  readonly deliveries: Deliveries;
  readonly sessions: Sessions;
}

export function createChecks({ checks, logic, rpc, deliveries, sessions }: ChecksParts): Check[] {
  return [
    ...checks,
    { name: "logic", run: () => logic.status({}, { timeoutMs: 1_500 }) },
    {
      name: "roles",
      async run() {
        const alive = await Promise.all(REQUIRED.map(async (role) => [role, await rpc.live(role)] as const));
        const missing = alive.filter(([, names]) => names.length === 0).map(([role]) => role);
        if (missing.length > 0) throw new Error(`nobody serves ${missing.join(", ")}`);
        return Object.fromEntries(alive.map(([role, names]) => [role, names.length]));
      },
    },
    { name: "deliveries", run: () => deliveries.check() },
    {
      name: "draining",
      async run() {
        if (sessions.isDraining) throw new Error("this gateway is draining");
        return { connections: sessions.size };
      },
    },
  ];
}
