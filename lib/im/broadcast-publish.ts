/**
 * The commands of a broadcast: one for each recipient, however often it is asked for. The mark that he has his is committed with it, in his
 * partition.
 */

import type { Clock } from "../clock.ts";
import { newId } from "../id.ts";
import { defineScript, type Keys, type RedisClient } from "../redis/index.ts";
import publishLua from "../redis/lua/im-broadcast-publish.lua" with { type: "text" };
import append from "../redis/lua/mq-append.lua" with { type: "text" };
import { BROADCAST_LIFE_MS, BROADCASTER, broadcastCounts } from "./broadcasts.ts";
import { imCommands, type SendCommand } from "./topics.ts";

const publishCommands = defineScript({
  name: "imBroadcastPublish",
  lua: [append, publishLua],
  keys: ["marks", "counts", "commands"],
  args: ["commandStart", "commandEnd", "lifeMs"],
  hasRest: true,
  decode: (reply) => reply as number,
});

interface PublishParts {
  readonly redis: RedisClient;
  readonly keys: Keys;
  readonly clock: Clock;
}

interface BroadcastMessage {
  readonly by: string;
  readonly type: string;
  /** JSON. */
  readonly body: string;
}

/** Publishes the command for each of these users, once. Resolves to how many of them had none yet. */
export async function publishBroadcast(
  { redis, keys, clock }: PublishParts,
  id: string,
  { by, type: messageType, body }: BroadcastMessage,
  users: readonly string[],
): Promise<number> {
  const byPartition = new Map<number, string[]>();
  for (const user of users) {
    if (user === by || user === BROADCASTER) continue;
    const partition = keys.partitionOf(user);
    const args = byPartition.get(partition) ?? [];
    byPartition.set(partition, args);
    args.push(user, newId(clock.now()));
  }
  const rest: Omit<SendCommand, "to" | "body"> = {
    ...{ type: "send", by, clientId: broadcastCounts(id), messageType },
    cause: { kind: "broadcast", id },
  };
  const published = Array.from(byPartition, ([partition, restArgs]) =>
    publishCommands(redis, {
      marks: keys.broadcastMarks(partition, id),
      counts: keys.own(partition, broadcastCounts(id)),
      commands: keys.topic(imCommands.name, partition),
      // User ids are of an alphabet that needs no escaping in JSON.
      commandStart: `${JSON.stringify(rest).slice(0, -1)},"to":{"user":"`,
      commandEnd: `"},"body":${body}}`,
      lifeMs: BROADCAST_LIFE_MS,
      restArgs,
    }),
  );
  return (await Promise.all(published)).reduce((sum, fresh) => sum + fresh, 0);
}
