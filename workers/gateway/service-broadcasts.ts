/**
 * Routes of broadcasts: one message to a list of users, the members of a conversation, or everybody. Recorded here, run by extlogic, sent
 * by logic: whoever asks needs only patience. It is sent by the user in Skein-User, else by `skein`.
 */

import * as v from "valibot";
import { readInput, type Scope } from "../../lib/http/index.ts";
import {
  BodySchema,
  BROADCAST_ID_LENGTH_MAX,
  BROADCAST_RATE,
  BROADCAST_RATE_MAX,
  BROADCAST_USERS_MAX,
  BROADCASTER,
  type Broadcasts,
  IdSchema,
  isTextBody,
  LIMITS,
  UserIdSchema,
} from "../../lib/im/index.ts";
import { Name, whole } from "./service-inputs.ts";
import { type ServiceRoute, serviceRoute } from "./service-route.ts";

/** 10 000 users of 128 characters, quoted, and a message. */
const BODY_BYTES_MAX = 1_536 * 1_024;

const ID_MESSAGE = `must be at most ${BROADCAST_ID_LENGTH_MAX} characters`;
const USERS_MESSAGE = `must be 1 to ${BROADCAST_USERS_MAX} users`;
const AUDIENCE_MESSAGE = "must be exactly one of users, all and conversation";

const AudienceParams = v.pipe(
  v.strictObject({
    users: v.exactOptional(
      v.pipe(
        v.array(UserIdSchema, USERS_MESSAGE),
        v.minLength(1, USERS_MESSAGE),
        v.maxLength(BROADCAST_USERS_MAX, USERS_MESSAGE),
      ),
    ),
    all: v.exactOptional(v.literal(true, "must be true")),
    conversation: v.exactOptional(IdSchema),
  }),
  v.check((audience) => Object.keys(audience).length === 1, AUDIENCE_MESSAGE),
);
const CreateParams = v.pipe(
  v.strictObject({
    id: v.exactOptional(v.pipe(Name, v.maxLength(BROADCAST_ID_LENGTH_MAX, ID_MESSAGE))),
    audience: AudienceParams,
    type: v.optional(IdSchema, "text"),
    body: BodySchema,
    perSecond: v.optional(whole(1, BROADCAST_RATE_MAX), BROADCAST_RATE),
  }),
  v.forward(
    v.check(
      ({ type, body }) => type !== "text" || isTextBody(body),
      `must be {text} of 1 to ${LIMITS.textBytes} bytes when the type is text`,
    ),
    ["body"],
  ),
);
const Summary = {
  id: v.string(),
  state: v.picklist(["running", "paused", "done", "cancelled"]),
  by: UserIdSchema,
  /** Of a list of users: how many. */
  audience: v.union([
    v.strictObject({ users: v.number() }),
    v.strictObject({ all: v.literal(true) }),
    v.strictObject({ conversation: v.string() }),
  ]),
  type: v.string(),
  body: v.looseObject({}),
  perSecond: v.number(),
  createdAt: v.number(),
  startedAt: v.optional(v.number()),
  endedAt: v.optional(v.number()),
};
const BroadcastReply = v.strictObject({
  ...Summary,
  /** Recipients so far; of one that is done: all. */
  total: v.number(),
  sent: v.number(),
  /** Error code -> how many. */
  refused: v.record(v.string(), v.number()),
});
const ListReply = v.strictObject({ broadcasts: v.array(v.strictObject(Summary)) });
const OfId = v.strictObject({ id: Name });

const broadcaster = (): readonly Scope[] => ["broadcast"];

export function broadcastRoutes(broadcasts: Broadcasts): readonly ServiceRoute[] {
  const all = "/v1/broadcasts";
  const one = `${all}/:id`;

  const order = (name: "pause" | "resume" | "cancel", summary: string) =>
    serviceRoute(
      "post",
      `${one}/${name}`,
      { summary, scopes: broadcaster, input: OfId, mayLackBody: true, replies: { 200: BroadcastReply } },
      async ({ c, params: { id } }) => c.json(await broadcasts.order(id, name)),
    );

  return [
    serviceRoute(
      "post",
      all,
      {
        summary: "Send a message to many users, each in his conversation with the sender, once per id",
        scopes: broadcaster,
        input: CreateParams,
        read: (c) => readInput(c, CreateParams, { path: [], bodyBytesMax: BODY_BYTES_MAX }),
        replies: { 202: BroadcastReply, 200: BroadcastReply },
      },
      async ({ c, caller, params: { audience, ...params } }) => {
        const { users, conversation } = audience;
        const { broadcast, isNew } = await broadcasts.create({
          ...params,
          by: caller.user ?? BROADCASTER,
          audience: users ? { users } : conversation === undefined ? { all: true } : { conversation },
        });
        return c.json(broadcast, isNew ? 202 : 200);
      },
    ),
    serviceRoute(
      "get",
      all,
      {
        summary: "The latest 100 broadcasts, newest first",
        scopes: broadcaster,
        input: v.strictObject({}),
        replies: { 200: ListReply },
      },
      async ({ c }) => c.json({ broadcasts: await broadcasts.list() }),
    ),
    serviceRoute(
      "get",
      one,
      {
        summary: "A broadcast and how far it has come",
        scopes: broadcaster,
        input: OfId,
        replies: { 200: BroadcastReply },
      },
      async ({ c, params: { id } }) => c.json(await broadcasts.get(id)),
    ),
    order("pause", "Publish no more of it until it is resumed"),
    order("resume", "Go on with it"),
    order("cancel", "End it: who was not asked for yet gets nothing"),
  ];
}
