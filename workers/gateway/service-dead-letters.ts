/** Routes of dead letters: pages of them, redrive, and how far a redrive in the background has come. */

import * as v from "valibot";
import { AppError } from "../../lib/errors.ts";
import { invalid } from "../../lib/http/index.ts";
import type { Queue, RedriveSelection, StoredDeadLetter } from "../../lib/mq/index.ts";
import { assertMayOperate, Name, Time, whole } from "./service-inputs.ts";
import { consumerOrAdmin, type ServiceRoute, serviceRoute } from "./service-route.ts";

const PAGE_MAX = 200;
const IDS_MAX = 5_000;
const PER_SECOND_MAX = 1_000;

const ErrorText = v.pipe(
  v.string(),
  v.minLength(1, "must not be empty"),
  v.maxLength(256, "must be at most 256 characters"),
);
const LetterKey = v.pipe(
  v.string(),
  v.minLength(1, "must not be empty"),
  v.maxLength(256, "must be at most 256 characters"),
);
const LetterId = v.pipe(
  v.string(),
  v.regex(/^\d{1,4}-\d{1,15}-\d{1,20}$/, "must be a dead letter's id, <partition>-<ms>-<count>"),
);

const OfGroup = { topic: Name, group: Name };
const ListParams = v.strictObject({
  ...OfGroup,
  key: v.exactOptional(LetterKey),
  error: v.exactOptional(ErrorText),
  before: v.exactOptional(v.pipe(v.string(), v.maxLength(64, "must be a dead letter's id or a time in Unix ms"))),
  limit: v.exactOptional(whole(1, PAGE_MAX)),
});
const Letter = v.object({
  id: v.string(),
  messageId: v.string(),
  key: v.string(),
  type: v.string(),
  tag: v.string(),
  data: v.unknown(),
  reason: v.string(),
  firstError: v.string(),
  lastError: v.string(),
  attempts: v.array(v.strictObject({ at: v.number(), member: v.string(), error: v.string() })),
  attemptCount: v.number(),
  firstFailureAt: v.optional(v.number()),
  buriedAt: v.number(),
  redrives: v.number(),
  sequence: v.optional(v.number()),
  originSequence: v.optional(v.string()),
  time: v.number(),
});
const ListReply = v.strictObject({ deadLetters: v.array(Letter), next: v.optional(v.string()) });

const RedriveParams = v.strictObject({
  ...OfGroup,
  ids: v.exactOptional(
    v.pipe(
      v.array(LetterId),
      v.minLength(1, `must hold 1 to ${IDS_MAX} ids`),
      v.maxLength(IDS_MAX, `must hold 1 to ${IDS_MAX} ids`),
    ),
  ),
  filter: v.exactOptional(
    v.strictObject({
      key: v.exactOptional(LetterKey),
      error: v.exactOptional(ErrorText),
      before: v.exactOptional(Time),
      after: v.exactOptional(Time),
    }),
  ),
  dryRun: v.exactOptional(v.boolean("must be true or false")),
  perSecond: v.exactOptional(whole(1, PER_SECOND_MAX)),
});
const RedriveReply = v.strictObject({
  matched: v.number(),
  results: v.array(v.strictObject({ id: v.string(), result: v.string() })),
  redrive: v.optional(v.string()),
});
const StatusReply = v.object({
  id: v.string(),
  state: v.picklist(["running", "done", "cancelled"]),
  perSecond: v.number(),
  results: v.record(v.string(), v.number()),
  createdAt: v.number(),
  endedAt: v.optional(v.number()),
});

export function deadLetterRoutes({ deadLetters }: Queue): readonly ServiceRoute[] {
  const all = "/v1/topics/:topic/groups/:group/dead-letters";
  return [
    serviceRoute(
      "get",
      all,
      {
        summary: "Dead letters of a group, newest first",
        scopes: consumerOrAdmin,
        input: ListParams,
        replies: { 200: ListReply },
      },
      async ({ c, caller, params: { topic, group, ...query } }) => {
        assertMayOperate(caller, topic, group);
        const { letters, next } = await deadLetters.list(topic, group, query);
        const shown = `{"deadLetters":[${letters.map(showLetter).join(",")}]${next === undefined ? "" : `,"next":${JSON.stringify(next)}`}}`;
        return c.body(shown, 200, { "content-type": "application/json" });
      },
    ),
    serviceRoute(
      "post",
      `${all}/redrive`,
      {
        summary: "Give dead letters back to their group; at a rate, or more than 500, in the background (202)",
        scopes: consumerOrAdmin,
        input: RedriveParams,
        replies: { 200: RedriveReply, 202: RedriveReply },
      },
      async ({ c, caller, params: { topic, group, ids, filter, ...options } }) => {
        assertMayOperate(caller, topic, group);
        if (ids !== undefined && filter !== undefined) throw invalid("ids", "or filter: give one, or neither for all");
        const selection = (ids ? { ids } : { filter: filter ?? {} }) as RedriveSelection;
        const reply = await deadLetters.redrive(topic, group, selection, options);
        return c.json(reply, reply.redrive === undefined ? 200 : 202);
      },
    ),
    serviceRoute(
      "get",
      `${all}/redrives/:id`,
      {
        summary: "How far a redrive in the background has come",
        scopes: consumerOrAdmin,
        input: v.strictObject({ ...OfGroup, id: Name }),
        replies: { 200: StatusReply },
      },
      async ({ c, caller, params: { topic, group, id } }) => {
        assertMayOperate(caller, topic, group);
        const status = await deadLetters.redriveStatus(id);
        if (status?.topic !== topic || status.group !== group) throw new AppError("NOT_FOUND");
        return c.json(status);
      },
    ),
  ];
}

/** As JSON, with the data as it was published; of an entry that was no message, what lay there as text. */
function showLetter({
  data,
  properties: _properties,
  entry: _entry,
  member: _member,
  ...letter
}: StoredDeadLetter): string {
  return `${JSON.stringify(letter).slice(0, -1)},"data":${isJson(data) ? data : JSON.stringify(data)}}`;
}

function isJson(text: string): boolean {
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}
