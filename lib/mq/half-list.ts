/** The undecided half messages, page by page: what is prepared, and what expired and waits for an operator. */

import { AppError, type Issue } from "../errors.ts";
import { toAppError } from "../redis/index.ts";
import { type Half, type HalfContext, parseHead } from "./half.ts";

export interface HalfListOptions {
  readonly state: "prepared" | "expired";
  /** 1..200, default 50. */
  readonly limit?: number;
  /** `next` of the page before. */
  readonly cursor?: string;
}

export interface HalfPage {
  /** By partition, then by when their state ends. What changes while pages are read may be missing or come twice. */
  readonly halves: readonly Half[];
  readonly next?: string;
}

const LIMIT = 50;
const LIMIT_MAX = 200;

/** Where a page ends; as a cursor `<partition>.<end ms>.<id>`. */
interface Place {
  readonly partition: number;
  readonly endMs: number;
  readonly id: string;
}

const START: Place = { partition: 0, endMs: 0, id: "" };
const CURSOR_PATTERN = /^(\d{1,4})\.(\d{1,15})\.([0-9A-Z-]{1,32})$/;

/** Throws AppError INVALID for a limit or cursor that is none, and for Redis errors. */
export async function listHalves(context: HalfContext, options: HalfListOptions): Promise<HalfPage> {
  const { state, limit = LIMIT, cursor } = options;
  const start = cursor === undefined ? START : parseCursor(cursor);
  const issues: Issue[] = [];
  if (!(Number.isInteger(limit) && limit >= 1 && limit <= LIMIT_MAX)) {
    issues.push({ path: "limit", message: `must be a whole number from 1 to ${LIMIT_MAX}` });
  }
  if (!start || start.partition >= context.keys.partitions) {
    issues.push({ path: "cursor", message: "must be `next` of an earlier page" });
  }
  if (issues.length > 0) {
    const lines = issues.map(({ path, message }) => `${path} ${message}`).join("; ");
    throw new AppError("INVALID", lines, { issues });
  }
  try {
    const places: Place[] = [];
    for await (const place of placesBehind(context, state, start!)) {
      places.push(place);
      if (places.length > limit) break;
    }
    const page = places.slice(0, limit);
    const found = await Promise.all(page.map((place) => headAt(context, place)));
    const halves = found.filter((half) => half?.state === state) as Half[];
    const last = page.at(-1);
    return places.length > limit ? { halves, next: `${last!.partition}.${last!.endMs}.${last!.id}` } : { halves };
  } catch (error) {
    throw toAppError(error);
  }
}

function parseCursor(cursor: string): Place | undefined {
  const [, partition, endMs, id] = CURSOR_PATTERN.exec(cursor) ?? [];
  return id === undefined ? undefined : { partition: Number(partition), endMs: Number(endMs), id };
}

async function* placesBehind({ keys, redis }: HalfContext, state: "prepared" | "expired", start: Place) {
  for (let partition = start.partition; partition < keys.partitions; partition++) {
    const isFirst = partition === start.partition;
    const from = isFirst ? start.endMs : 0;
    const key = keys.halfIn(partition, state);
    for (let offset = 0, isMore = true; isMore; offset += LIMIT_MAX) {
      const { commands } = redis;
      const reply = await commands.zrangebyscore(key, from, "+inf", "WITHSCORES", "LIMIT", offset, LIMIT_MAX);
      for (let i = 0; i < reply.length; i += 2) {
        const [id, endMs] = [reply[i]!, Number(reply[i + 1])];
        // Redis orders those of one ms by their ids.
        if (isFirst && endMs === start.endMs && id <= start.id) continue;
        yield { partition, endMs, id };
      }
      isMore = reply.length === 2 * LIMIT_MAX;
    }
  }
}

async function headAt({ keys, redis }: HalfContext, { partition, id }: Place): Promise<Half | undefined> {
  const head = await redis.commands.hget(keys.half(partition), id);
  return head === null ? undefined : parseHead(id, head);
}
