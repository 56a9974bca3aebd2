/**
 * Search of one's own conversations by what is said in them now. The archive knows where the words are, some 100 ms after they were
 * said; whose member the caller is, and what a message looks like, is read where everything reads it. So what was recalled or
 * edited since the archive heard is not shown as it was.
 *
 * The conversations are the 500 most recently active ones, or the one that is named, which may be any. Subscribers' channels
 * are among them.
 */

import type * as v from "valibot";
import { type ArchiveContract, SEARCHED_TIMELINES_MAX, SEARCHED_WORDS_MAX } from "../archive/contract.ts";
import { AppError } from "../errors.ts";
import type { Keys, RedisClient } from "../redis/index.ts";
import { wordsOf } from "../words.ts";
import { FOLDED_PARTS, foldedMessage } from "./fold.ts";
import type { Hidden } from "./hidden.ts";
import type { Inbox } from "./inbox.ts";
import type { SearchParams, SearchReply } from "./requests.ts";
import type { Timeline } from "./timeline.ts";

type ArchiveSearch = v.InferInput<ArchiveContract["methods"]["search"]["input"]>;
type Found = v.InferOutput<ArchiveContract["methods"]["search"]["output"]>["found"][number];

/** Searches the archive; in a worker it is the archive's RPC. */
export type SearchArchive = (search: ArchiveSearch) => Promise<readonly Found[]>;

export interface SearchParts {
  readonly redis: RedisClient;
  readonly keys: Keys;
  readonly inbox: Inbox;
  readonly hidden: Hidden;
  readonly timeline: Timeline;
  readonly searchArchive: SearchArchive;
}

/**
 * Newest first. A page may hold fewer hits than asked, for what the caller deleted for himself and what was recalled a moment ago
 * is left out; `next` tells whether there is more. Rejects with INVALID for too many words, NOT_MEMBER for a conversation of others.
 */
export async function search(parts: SearchParts, user: string, params: SearchParams): Promise<SearchReply> {
  const { q, conversation, before, limit } = params;
  const words = wordsOf(q);
  if (words.length > SEARCHED_WORDS_MAX) {
    const message = `must be at most ${SEARCHED_WORDS_MAX} different words`;
    throw new AppError("INVALID", `q: ${message}`, { issues: [{ path: "q", message }] });
  }
  const searched = await timelinesOf(parts, user, conversation);
  if (words.length === 0 || searched.size === 0) return { hits: [] };
  const found = await parts.searchArchive({
    timelines: Array.from(searched, ([id, { epoch }]) => ({ conversation: id, epoch })),
    text: q,
    limit,
    ...(before === undefined ? {} : { before: toFound(before) }),
  });
  const last = found.length === limit ? found.at(-1) : undefined;
  return {
    hits: await shown(parts, user, found, searched),
    ...(last ? { next: `${last.at}:${last.conversation}:${last.seq}` } : {}),
  };
}

interface Searched {
  readonly epoch: string;
  /** The caller is a member as of this seq. Who is put out while the archive searches is told nothing that came behind it. */
  readonly head: number;
}

/** Each conversation that is searched, all of which the user is a member of now. */
async function timelinesOf(
  { redis, keys, inbox }: SearchParts,
  user: string,
  conversation: string | undefined,
): Promise<ReadonlyMap<string, Searched>> {
  const ids =
    conversation === undefined ? (await inbox.page(user, SEARCHED_TIMELINES_MAX)).conversations : [conversation];
  const values = await Promise.all(ids.map((id) => redis.hmget(keys.members(id), "#", user)));
  const searched = new Map<string, Searched>();
  for (const [i, [place, member]] of values.entries()) {
    if (!place || !member) continue;
    const [head, , , , epoch] = place.split(" ");
    searched.set(ids[i]!, { epoch: epoch!, head: Number(head) });
  }
  if (conversation !== undefined && searched.size === 0) throw new AppError("NOT_MEMBER");
  return searched;
}

async function shown(
  { hidden, timeline }: SearchParts,
  user: string,
  found: readonly Found[],
  searched: ReadonlyMap<string, Searched>,
): Promise<SearchReply["hits"]> {
  const isHidden = await hidden.among(user, found);
  const visible = found.filter(({ conversation, seq }, i) => !isHidden[i] && seq <= searched.get(conversation)!.head);
  const hits = await Promise.all(
    visible.map(async ({ conversation, seq }) => {
      const [stored] = await timeline.read({
        ...{ conversation, epoch: searched.get(conversation)!.epoch, after: seq - 1, before: seq + 1, limit: 1 },
        ...{ newest: false, messagesOnly: true, parts: FOLDED_PARTS },
      });
      const message = stored && foldedMessage(stored.record, stored.parts);
      return message && message.recalledAt === undefined ? [{ conversation, message }] : [];
    }),
  );
  return hits.flat();
}

/** Of a `next`, whose shape its schema has checked. */
function toFound(next: string): Found {
  const [at, conversation, seq] = next.split(":");
  return { at: Number(at), conversation: conversation!, seq: Number(seq) };
}
