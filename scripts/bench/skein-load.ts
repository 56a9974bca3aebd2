/**
 * Load on a private Skein: its conversations and connections, one measured run at a time, and the CPU time of every process
 * over exactly the measured time.
 */

import { LIMITS } from "../../lib/im/index.ts";
import type { RedisClient } from "../../lib/redis/index.ts";
import { type Api, createApi, inParallel } from "../load/api.ts";
import type { Lane, Load, LoadProcess, LoadResult } from "../load/index.ts";
import { type MachineUse, startMachineWatch } from "./hardware.ts";
import { type CommandUse, commandUses } from "./redis.ts";
import { type CpuByName, startCpuWatch } from "./usage.ts";

/** What a bench must know of the Skein it measures. */
export interface Target {
  /** http://host:port of each gateway process. */
  readonly gateways: readonly string[];
  readonly serviceKey: string;
  /** For its statistics. */
  readonly redis: RedisClient;
  /** By role, with Redis: what `pidsOf` found when the run began. */
  pids(): Readonly<Record<string, number>>;
}

export interface Measured extends LoadResult {
  readonly cpu: CpuByName;
  readonly commands: readonly CommandUse[];
  readonly machine: MachineUse;
}

export interface SkeinLoad {
  readonly api: Api;
  /** 100 pairs: both members connected, each to another gateway; the pairs' directions alternate. */
  connectPairs(pairs: number): Promise<Lane[]>;
  /** One group whose members are spread over the gateways; `senders` of them send. */
  connectGroup(members: number, senders: number): Promise<Lane[]>;
  /**
   * Conversations of `type` with so many of the same users each, who are connected when all are made, spread over the gateways.
   * The first of them owns all.
   */
  connectCrowd(
    conversations: readonly { readonly type: "group" | "channel"; readonly members: number }[],
  ): Promise<string[]>;
  /** `count` connections of as many users in no conversation. Resolves with the seconds it took. */
  connectIdle(count: number): Promise<number>;
  run(load: Omit<Load, "run" | "textBytes">): Promise<Measured>;
}

const MEMBERS_PER_REQUEST = LIMITS.membersPerRequest;
/** As the yardstick's bodies. */
const TEXT_BYTES = 100;

let runs = 0;

export function createSkeinLoad(target: Target, process: LoadProcess): SkeinLoad {
  const api = createApi({ url: target.gateways[0]!, serviceKey: target.serviceKey });
  const socketUrl = (index: number) =>
    `${target.gateways[index % target.gateways.length]!.replace(/^http/, "ws")}/v1/ws`;
  const socketsOf = (users: readonly string[]) =>
    inParallel(users, async (user, index) => ({ url: socketUrl(index), token: await api.token(user) }));

  return {
    api,
    async connectPairs(pairs) {
      const users = Array.from({ length: pairs * 2 }, (_, i) => `pair-${i}`);
      const firsts = users.filter((_, i) => i % 2 === 0);
      const conversations = await inParallel(firsts, (user, i) =>
        api.createConversation(user, { type: "direct", members: [users[i * 2 + 1]!] }),
      );
      await process.connect(await socketsOf(users));
      // User 2i is on the first gateway, 2i+1 on the second.
      return conversations.map((conversation, i) => ({ sender: i * 2 + (i % 2), conversation, receivers: 1 }));
    },
    async connectGroup(members, senders) {
      const users = Array.from({ length: members }, (_, i) => `group-${i}`);
      const conversation = await api.createConversation(users[0]!, { type: "group", members: users });
      await process.connect(await socketsOf(users));
      return Array.from({ length: senders }, (_, sender) => ({ sender, conversation, receivers: members - 1 }));
    },
    async connectCrowd(conversations) {
      const users = Array.from(
        { length: Math.max(...conversations.map(({ members }) => members)) },
        (_, i) => `crowd-${i}`,
      );
      const owner = users[0]!;
      const ids: string[] = [];
      for (const { type, members } of conversations) {
        const id = await api.createConversation(owner, {
          type,
          members: users.slice(0, Math.min(members, MEMBERS_PER_REQUEST)),
        });
        // One after another: each tells the members before.
        for (let from = MEMBERS_PER_REQUEST; from < members; from += MEMBERS_PER_REQUEST) {
          await api.addMembers(owner, id, users.slice(from, Math.min(members, from + MEMBERS_PER_REQUEST)));
        }
        ids.push(id);
      }
      await process.connect(await socketsOf(users));
      return ids;
    },
    async connectIdle(count) {
      return process.connect(await socketsOf(Array.from({ length: count }, (_, i) => `idle-${i}`)));
    },
    async run(load) {
      let stopWatch: (() => CpuByName) | undefined;
      let cpu: CpuByName = {};
      let stopMachineWatch: (() => MachineUse) | undefined;
      let machine: MachineUse = { busyCores: Number.NaN, cores: Number.NaN };
      let commands: Promise<CommandUse[]> = Promise.resolve([]);
      runs++;
      const result = await process.run({ ...load, run: `run${runs}`, textBytes: TEXT_BYTES }, (phase) => {
        if (phase === "measuring") {
          stopWatch = startCpuWatch({ ...target.pids(), "load generator": process.pid });
          stopMachineWatch = startMachineWatch();
          void target.redis.config("RESETSTAT");
        } else {
          cpu = stopWatch!();
          machine = stopMachineWatch!();
          commands = commandUses(target.redis);
        }
      });
      return { ...result, cpu, machine, commands: await commands };
    },
  };
}
