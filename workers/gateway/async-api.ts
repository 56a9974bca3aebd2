/**
 * /asyncapi.json: the WebSocket as AsyncAPI 3, made of the schemas that check frames (methods.ts, session.ts) and of those that the
 * chat's entries and messages are declared with. Requests are JSON-RPC 2.0 calls, notifications JSON-RPC calls without an id.
 */

import { toJsonSchema } from "@valibot/to-json-schema";
import * as v from "valibot";
import { ProblemSchema } from "../../lib/http/index.ts";
import {
  ConversationSchema,
  EditEntrySchema,
  EntrySchema,
  MemberEntrySchema,
  MessageSchema,
  type NotificationName,
  PresenceStateSchema,
  ReactionEntrySchema,
  RecallEntrySchema,
  ReminderReply,
  ScheduledSchema,
  TimeSchema,
  UserIdSchema,
} from "../../lib/im/index.ts";
import type { SessionNotification } from "./frames.ts";
import { webSocketMethods } from "./methods.ts";
import { OpenParams, OpenReply } from "./session.ts";
import { WEB_SOCKET_PATH } from "./upgrade.ts";

const seq = v.number();
const step = <E extends v.GenericSchema>(entry: E) => v.strictObject({ conversation: v.string(), seq, entry });

/** What is told unasked: the compiler demands each that the chat or the gateway can send. */
export const NOTIFICATIONS = {
  "session.ready": OpenReply,
  "session.resync": v.strictObject({ reason: v.picklist(["lagging", "lost", "overrun"]) }),
  "session.closing": v.strictObject({ reason: v.string(), reconnectInMs: v.number() }),
  message: v.strictObject({ message: MessageSchema }),
  "message.edited": step(EditEntrySchema),
  "message.recalled": step(RecallEntrySchema),
  "message.reaction": step(ReactionEntrySchema),
  member: step(MemberEntrySchema),
  "message.hidden": v.strictObject({ conversation: v.string(), seq }),
  read: v.strictObject({ conversation: v.string(), user: UserIdSchema, seq }),
  delivered: v.strictObject({ conversation: v.string(), user: UserIdSchema, seq }),
  typing: v.strictObject({ conversation: v.string(), user: UserIdSchema, on: v.boolean() }),
  presence: PresenceStateSchema,
  conversation: v.strictObject({
    conversation: v.omit(ConversationSchema, ["members"]),
    seq: v.optional(seq),
    entry: v.optional(EntrySchema),
  }),
  reminder: ReminderReply,
  scheduled: v.strictObject({ scheduled: ScheduledSchema }),
  "conversation.muted": v.strictObject({ conversation: v.string(), mutedUntil: v.optional(TimeSchema) }),
} satisfies Record<NotificationName | SessionNotification, v.GenericSchema>;

const OWN_METHODS: Readonly<Record<string, { readonly params: v.GenericSchema; readonly reply: v.GenericSchema }>> = {
  "session.open": { params: OpenParams, reply: OpenReply },
  "session.ping": { params: v.strictObject({}), reply: v.strictObject({ serverTime: v.number() }) },
};

const CHANNEL = "socket";
const ref = (name: string) => ({ $ref: `#/channels/${CHANNEL}/messages/${name}` });

export function describeSocket(): object {
  const messages: Record<string, object> = {
    error: { payload: rpc({ id: {}, error: errorSchema() }), description: "In place of a reply." },
  };
  const operations: Record<string, object> = {};
  const channel = { $ref: `#/channels/${CHANNEL}` };
  for (const [method, { params, reply }] of [...Object.entries(OWN_METHODS), ...webSocketMethods]) {
    const [request, answer] = [`${method}.request`, `${method}.reply`];
    // As fields: a schema that looks at its input first has no form of its own.
    const fields = "entries" in params ? v.strictObject(params.entries as v.ObjectEntries) : params;
    messages[request] = { payload: rpc({ id: idSchema, method: { const: method }, params: schemaOf(fields) }) };
    messages[answer] = { payload: rpc({ id: idSchema, result: schemaOf(reply) }) };
    operations[method] = {
      ...{ action: "receive", channel, messages: [ref(request)] },
      reply: { channel, messages: [ref(answer), ref("error")] },
    };
  }
  for (const [method, params] of Object.entries(NOTIFICATIONS)) {
    const name = `${method}.notification`;
    messages[name] = { payload: rpc({ method: { const: method }, params: schemaOf(params) }) };
    operations[name] = { action: "send", channel, messages: [ref(name)] };
  }
  return {
    asyncapi: "3.0.0",
    info: { title: "Skein", version: "1", description: "Chat over a WebSocket: JSON-RPC 2.0 in text frames." },
    defaultContentType: "application/json",
    channels: { [CHANNEL]: { address: WEB_SOCKET_PATH, messages, bindings: { ws: { method: "GET" } } } },
    operations,
  };
}

const idSchema = { type: ["string", "number"] };

function rpc(properties: Readonly<Record<string, object>>): object {
  const all = { jsonrpc: { const: "2.0" }, ...properties };
  return { type: "object", properties: all, required: Object.keys(all) };
}

/** The data of an error is a problem without its HTTP parts. */
function errorSchema(): object {
  const data = schemaOf(v.pick(ProblemSchema, ["code", "retryable", "retryAfterMs", "issues"]));
  const properties = { code: { type: "integer" }, message: { type: "string" }, data };
  return { type: "object", properties, required: Object.keys(properties) };
}

/** Checks in code have no JSON schema and are left out. */
function schemaOf(schema: v.GenericSchema): object {
  const { $schema: _, ...described } = toJsonSchema(schema, { errorMode: "ignore" });
  return described;
}
