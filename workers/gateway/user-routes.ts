/**
 * The users' half of the HTTP API, as a table: each route is a method (methods.ts) under a path. What a method takes is read from
 * path, query and body together; validation and /openapi.json follow from it.
 */

import type { Context } from "hono";
import type { Clock } from "../../lib/clock.ts";
import {
  type App,
  type AppEnv,
  type Authenticator,
  actingUser,
  CHAT_BODY_BYTES_MAX,
  describeInput,
  type InputSchema,
  readInput,
} from "../../lib/http/index.ts";
import { type Limiters, type Logic, type Method, methods } from "./methods.ts";
import type { Verb } from "./service-route.ts";

type RouteContext = Context<AppEnv>;

/** How a reply is answered: the statuses that it may have, and which one. */
interface Answer<R> {
  readonly statuses: readonly number[];
  answer(c: RouteContext, reply: R): Response;
}

export interface UserRoute {
  readonly verb: Verb;
  readonly path: string;
  readonly summary: string;
  readonly method: Method;
  readonly answer: Answer<unknown>;
}

const asItIs: Answer<unknown> = { statuses: [200], answer: (c, reply) => c.json(reply as object) };
const noContent: Answer<unknown> = { statuses: [204], answer: (c) => c.body(null, 204) };

function route<S extends InputSchema, R>(
  verb: Verb,
  path: string,
  summary: string,
  method: Method<S, R>,
  answer: Answer<R> = asItIs,
): UserRoute {
  return { verb, path, summary, method: method as unknown as Method, answer: answer as Answer<unknown> };
}

const conversations = "/v1/conversations";
const one = `${conversations}/:conversation`;
const member = `${one}/members/:user`;
const message = `${one}/messages/:seq`;
const reaction = `${message}/reactions/:emoji`;

export const USER_ROUTES: readonly UserRoute[] = [
  route("post", conversations, "Create a conversation", methods.create, {
    statuses: [201, 200],
    answer: (c, { created, conversation }) => c.json({ conversation }, created ? 201 : 200),
  }),
  route("get", conversations, "List conversations, newest activity first", methods.list),
  route("get", one, "Details of a conversation", methods.get),
  route("patch", one, "Change the title or who may join", methods.update),
  route("delete", one, "Dissolve the conversation", methods.dissolve, noContent),
  route("put", `${one}/mute`, "Take no notice of it until a time", methods.muteConversation),

  route("post", `${one}/members`, "Add members, or join", methods.addMembers),
  route("delete", member, "Remove a member, or leave", methods.removeMember, noContent),
  route("patch", member, "Change a member's role or mute, or give ownership away", methods.updateMember),

  route("post", `${one}/messages`, "Send a message, once per clientId; with deliverAt, then", methods.send, {
    statuses: [201, 200, 202],
    answer: (c, reply) => c.json(reply, "scheduled" in reply ? 202 : reply.duplicate ? 200 : 201),
  }),
  route("get", `${one}/messages`, "History, ascending by seq", methods.history),
  route("patch", message, "Edit one's own message", methods.edit),
  route("delete", message, "Recall a message, or with for=me delete it for oneself", methods.recall, noContent),
  route("put", reaction, "React to a message", methods.addReaction),
  route("delete", reaction, "Take a reaction back", methods.removeReaction, noContent),

  route("put", `${one}/delivered`, "Move forward what has reached a device", methods.deliver),
  route("put", `${one}/read`, "Move the read cursor forward", methods.read),
  route("get", `${one}/receipts`, "How far the members have come", methods.receipts),
  route("get", "/v1/search", "Search one's own conversations, newest first", methods.search),
  route("post", "/v1/sync", "What was missed since the cursors", methods.sync),

  route("get", "/v1/scheduled", "Messages that are to be sent, the next first", methods.listScheduled),
  route("patch", "/v1/scheduled/:id", "Send it at another time", methods.moveScheduled),
  route("delete", "/v1/scheduled/:id", "Cancel it, or forget a refused one", methods.cancelScheduled),
  route("post", "/v1/reminders", "Be reminded", methods.createReminder, {
    statuses: [201],
    answer: (c, reply) => c.json(reply, 201),
  }),
  route("get", "/v1/reminders", "Reminders, by due time", methods.listReminders),
  route("patch", "/v1/reminders/:id", "Be reminded at another time", methods.moveReminder),
  route("post", "/v1/reminders/:id/snooze", "Be reminded once more", methods.snoozeReminder),
  route("delete", "/v1/reminders/:id", "Cancel it, or forget one that has fired", methods.cancelReminder),

  route("get", "/v1/me/devices", "One's devices, online or not", methods.listDevices),
  route("delete", "/v1/me/devices/:device", "Forget a device, close its connections", methods.removeDevice, noContent),
  route("put", "/v1/me/push/:device", "Push to a device", methods.registerPush),
  route("delete", "/v1/me/push/:device", "Push to a device no longer", methods.removePush, noContent),
  route("get", "/v1/push/vapid-key", "The key that browsers subscribe to push with", methods.pushKey),
  route("get", "/v1/me/blocks", "Users whose direct messages are not taken", methods.listBlocks),
  route("put", "/v1/me/blocks/:user", "Block a user", methods.addBlock),
  route("delete", "/v1/me/blocks/:user", "Unblock a user", methods.removeBlock, noContent),
];

export interface UserRouteParts {
  readonly logic: Logic;
  readonly auth: Authenticator;
  readonly limiters: Limiters;
  readonly clock: Clock;
}

export function mountUserRoutes(app: App, { logic, auth, limiters, clock }: UserRouteParts): void {
  for (const { verb, path, summary, method, answer } of USER_ROUTES) {
    const { params: input, reply, limit } = method;
    const names = [...path.matchAll(/:(\w+)/g)].map(([, name]) => name!);
    const mayLackBody = Object.keys(input.entries).every((name) => names.includes(name));
    const replies = Object.fromEntries(answer.statuses.map((status) => [status, status === 204 ? undefined : reply]));
    app.on(
      verb.toUpperCase(),
      path,
      describeInput({ method: verb, summary, input, path: names, mayLackBody, replies }),
      async (c) => {
        const user = actingUser(await auth.authenticate(c.req.raw.headers));
        const source = { path: names, mayLackBody, bodyBytesMax: CHAT_BODY_BYTES_MAX };
        const params = await readInput(c, input, source);
        if (limit) limiters[limit].take(user, clock.now());
        return answer.answer(c, await method.call(logic, user, params));
      },
    );
  }
}
