/**
 * The three faults. Each picks its victim and its moment from the seed, strikes, and returns what it did; that the victim came
 * back is waited for by the campaign.
 */

import type { Random } from "./random.ts";

/** One process of the Skein under test. */
export interface Victim {
  /** `redis`, or the name of a worker's unit. */
  readonly name: string;
  readonly pid: number;
}

export type CampaignName = "redis-kill" | "worker-kill" | "worker-pause";

export interface FaultContext {
  readonly random: Random;
  /** Who runs now. */
  processes(): readonly Victim[];
  /** Longest lease that a paused worker may hold. */
  readonly leaseMs: number;
}

/** A worker sleeps for this much longer than its lease: a takeover has happened when it wakes. */
const BEYOND_LEASE_MS = 1_500;
/** A victim is replaced by the supervisor within its back-off; a process that stays away longer is a finding. */
const RESTART_MS = 20_000;
const POLL_MS = 20;

/** Strikes once and waits until the victim runs again. Throws when it does not come back. */
export async function strike(campaign: CampaignName, context: FaultContext): Promise<string> {
  switch (campaign) {
    case "redis-kill":
      return kill(
        pick(context, (name) => name === "redis"),
        context,
      );
    case "worker-kill":
      return kill(
        pick(context, (name) => name !== "redis"),
        context,
      );
    case "worker-pause":
      return pause(
        pick(context, (name) => name !== "redis"),
        context,
      );
  }
}

function pick({ processes, random }: FaultContext, isWanted: (name: string) => boolean): Victim {
  const candidates = processes().filter(({ name }) => isWanted(name));
  if (candidates.length === 0) throw new Error("there is no such process to strike");
  return random.pick(candidates);
}

async function kill(victim: Victim, { processes }: FaultContext): Promise<string> {
  try {
    process.kill(victim.pid, "SIGKILL");
  } catch (error) {
    // It has just ended by itself, as a unit does that starts while Redis is away: dead all the same, and to come back.
    if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
  }
  const startedMs = performance.now();
  while (!processes().some(({ name, pid }) => name === victim.name && pid !== victim.pid)) {
    if (performance.now() - startedMs > RESTART_MS) {
      throw new Error(`${victim.name} did not come back within ${RESTART_MS} ms of its kill`);
    }
    await Bun.sleep(POLL_MS);
  }
  return `killed ${victim.name}, back after ${Math.round(performance.now() - startedMs)} ms`;
}

async function pause(victim: Victim, { leaseMs, random }: FaultContext): Promise<string> {
  const pauseMs = leaseMs + BEYOND_LEASE_MS + random.between(0, 1_000);
  process.kill(victim.pid, "SIGSTOP");
  try {
    await Bun.sleep(pauseMs);
  } finally {
    process.kill(victim.pid, "SIGCONT");
  }
  return `paused ${victim.name} for ${pauseMs} ms`;
}
