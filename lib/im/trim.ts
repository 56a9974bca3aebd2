/**
 * The hot window's end: what the archive holds leaves Redis, entries and what was folded about them. Some entries stay however
 * much is archived, so that most reading never asks the archive.
 */

import { defineScript, type Keys, type RedisClient } from "../redis/index.ts";
import trimLua from "../redis/lua/im-trim.lua" with { type: "text" };

/** Entries that stay hot (design.md §10). */
const HOT_ENTRIES = 1_000;
/** Messages per script: some 0.3 ms. */
const TARGETS_PER_CALL = 100;
/** Fields per look into the folded state. */
const SCAN_COUNT = 500;

const trimWindow = defineScript({
  name: "imTrim",
  lua: trimLua,
  keys: ["log", "folds"],
  args: ["keepFrom", "through"],
  hasRest: true,
  decode: (reply) => reply as number,
});

/** Trims a conversation whose archive holds every entry of the epoch up to `through`. Idempotent; of another epoch nothing goes. */
export type Trim = (conversation: string, epoch: string, through: number) => Promise<void>;

export function createTrim(redis: RedisClient, keys: Keys, hotEntries = HOT_ENTRIES): Trim {
  /** Messages before `keepFrom` that have folded state. */
  async function foldedBefore(conversation: string, keepFrom: number): Promise<number[]> {
    const found = new Set<number>();
    let cursor = "0";
    do {
      const [next, fields] = await redis.hscan(keys.folds(conversation), cursor, "COUNT", SCAN_COUNT);
      for (let i = 0; i < fields.length; i += 2) {
        const seq = Number.parseInt(fields[i]!, 10);
        if (seq < keepFrom) found.add(seq);
      }
      cursor = next;
    } while (cursor !== "0");
    return [...found];
  }

  return async (conversation, epoch, through) => {
    const place = await redis.hget(keys.members(conversation), "#");
    if (place === null) return;
    // Of another epoch nothing follows: its seqs are other entries than the ones that lie here now.
    if (place.split(" ")[4] !== epoch) return;
    const [head, , , lastMessage] = place.split(" ").map(Number);
    // The last message stays, for lists show it.
    const keepFrom = Math.min(through + 1, lastMessage || through + 1, head! - hotEntries + 1);
    if (keepFrom <= 1) return;
    const targets = await foldedBefore(conversation, keepFrom);
    // Once also without targets: the window itself.
    for (let i = 0; i === 0 || i < targets.length; i += TARGETS_PER_CALL) {
      const some = targets.slice(i, i + TARGETS_PER_CALL);
      await trimWindow(redis, {
        log: keys.log(conversation),
        folds: keys.folds(conversation),
        keepFrom,
        through,
        restKeys: some.map((seq) => keys.reactors(conversation, seq)),
        restArgs: some,
      });
    }
  };
}
