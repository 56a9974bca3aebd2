/** The Skein that a campaign breaks: private, at `disk`, each role in a process of its own; two of each where takeovers are the point. */

import { startSkein } from "../harness.ts";
import type { CampaignName, Victim } from "./faults.ts";

const ROLES: Readonly<Record<CampaignName, readonly string[]>> = {
  "redis-kill": ["gateway=2", "logic", "archive", "scheduler", "orders", "trades", "ads"],
  "worker-kill": ["gateway=2", "logic=2", "archive", "scheduler", "orders", "trades", "ads"],
  // A paused worker that wakes must find that another has taken its work over.
  "worker-pause": ["gateway=2", "logic=2", "archive=2", "scheduler=2", "orders=2", "trades=2", "ads=2"],
};
/** The longest lease of the product's groups (workers/examples/ledger.ts) and of the registry. */
const LEASE_MS = 5_000;
/** The generator's users are as fast as they can be. */
const UNLIMITED = "1000000";

export interface VictimSkein {
  /** http://host:port of each. */
  readonly gateways: readonly string[];
  readonly serviceKey: string;
  readonly dataDir: string;
  readonly leaseMs: number;
  processes(): readonly Victim[];
  /** Resolves when every gateway is ready again. */
  healthy(): Promise<void>;
  /** The end of what its processes logged. */
  output(): string;
  stop(): Promise<void>;
}

export async function startVictim(campaign: CampaignName, dataDir: string): Promise<VictimSkein> {
  const skein = await startSkein({
    roles: ROLES[campaign],
    processes: true,
    dataDir,
    env: { SKEIN_ACK_LEVEL: "disk", SKEIN_SEND_RATE: UNLIMITED, SKEIN_SEND_BURST: UNLIMITED },
  });
  return {
    gateways: skein.urls,
    serviceKey: skein.serviceKey,
    dataDir,
    leaseMs: LEASE_MS,
    processes: () => Object.entries(skein.pids()).map(([name, pid]) => ({ name, pid })),
    healthy: () => skein.untilReady(),
    output: skein.output,
    stop: skein.stop,
  };
}
