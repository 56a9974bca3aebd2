/**
 * The partitions of an ordered group that are held in the name of services outside. They are one member, `#pull`, whichever process
 * they come through: it has its share of the partitions beside the members in process, holds their leases while services ask,
 * and gives up what is another's share. Who holds what lies in Redis; this process only looks.
 */

import { defineScript } from "../redis/index.ts";
import releaseLua from "../redis/lua/mq-pull-release.lua" with { type: "text" };
import type { Declaration, QueueContext } from "./consumer.ts";
import { registerGroup } from "./group.ts";
import { acquireLease } from "./lease.ts";
import { Membership } from "./membership.ts";
import { PULL_MEMBER, type PullGroup } from "./pull-outlet.ts";

/**
 * How long a partition stays with services of which none asks any more. Extended by every receive, and at least once a second by one
 * that waits.
 */
export const PULL_HOLD_MS = 10_000;
/** How soon a change among the members is seen; as by members in process. */
const LOOK_MS = 200;

const releaseScript = defineScript({
  name: "mqPullRelease",
  lua: releaseLua,
  keys: ["lease"],
  args: [],
  decode: Number,
});

export class PullShare {
  readonly #context: QueueContext;
  readonly #topic: string;
  readonly #membership: Membership;
  #held: Promise<readonly number[]> | undefined;
  #lookedAt = Number.NEGATIVE_INFINITY;
  #isKnown = false;

  constructor(context: QueueContext, topic: string, group: string) {
    this.#context = { ...context, member: PULL_MEMBER };
    this.#topic = topic;
    this.#membership = new Membership(this.#context, topic, group, PULL_HOLD_MS);
  }

  /**
   * The partitions that may be handed out of, after taking and giving up what the share asks for. `mayRegister`: makes the group
   * where it is not there. Throws Redis errors.
   */
  partitions(group: PullGroup, mayRegister: boolean): Promise<readonly number[]> {
    if (this.#held === undefined || performance.now() - this.#lookedAt > LOOK_MS) {
      this.#lookedAt = performance.now();
      const held = this.#look(group, mayRegister);
      this.#held = held;
      held.catch(() => {
        if (this.#held === held) this.#held = undefined;
      });
    }
    return this.#held;
  }

  /** A partition turned out not to be held: the next call looks anew. */
  forget(): void {
    this.#held = undefined;
  }

  async #look(group: PullGroup, mayRegister: boolean): Promise<readonly number[]> {
    const { keys, redis } = this.#context;
    const { quota } = await this.#membership.look();
    const leases = Array.from({ length: keys.partitions }, (_, p) => keys.lease(this.#topic, p, group.group));
    const owners = await Promise.all(leases.map((lease) => redis.commands.hget(lease, "owner")));
    const held = leases.flatMap((_, partition) => (owners[partition] === PULL_MEMBER ? [partition] : []));
    // The same ones in every process.
    const surplus = held.splice(quota);
    await Promise.all(surplus.map((partition) => releasePartition(this.#context, this.#topic, group.group, partition)));
    // Free ones first; the lease of others may have run out.
    const others = leases.flatMap((_, partition) => (owners[partition] === PULL_MEMBER ? [] : [partition]));
    others.sort((a, b) => Number(Boolean(owners[a])) - Number(Boolean(owners[b])));
    while (held.length < quota && others.length > 0) {
      const asked = others.splice(0, quota - held.length);
      const taken = await Promise.all(asked.map((partition) => this.#acquire(group, partition, mayRegister)));
      held.push(...asked.filter((_, i) => taken[i]));
    }
    return held;
  }

  async #acquire(group: PullGroup, partition: number, mayRegister: boolean): Promise<boolean> {
    const context = this.#context;
    const declaration = { ...group, leaseMs: PULL_HOLD_MS } as Declaration<unknown>;
    // All processes are one holder: none of them replaces another.
    const site = { context, topic: this.#topic, declaration, partition, session: PULL_MEMBER };
    let grant = await acquireLease(site);
    if (grant === "unregistered" && mayRegister) {
      // All was lost since it was known: what came after must not be missed.
      await registerGroup(context, this.#topic, group, partition, this.#isKnown ? "first" : group.start);
      grant = await acquireLease(site);
    }
    if (grant === "held" || grant === "unregistered") return false;
    this.#isKnown = true;
    const labels = { topic: this.#topic, group: group.group };
    if (grant.previousOwner !== "") context.metrics.takeovers.inc(labels);
    return true;
  }
}

/** Frees a partition for members, whatever services have in hand of it. Throws Redis errors. */
export function releasePartition(
  { keys, redis }: QueueContext,
  topic: string,
  group: string,
  partition: number,
): Promise<number> {
  return releaseScript(redis.commands, { lease: keys.lease(topic, partition, group) });
}
