/** Reminders and scheduled messages as clients see them: HTTP, the socket and the client library, with gateway, logic and scheduler. */

import { afterAll, beforeAll, expect, test } from "bun:test";
import { type Client, connect } from "../../lib/client/index.ts";
import { worker as scheduler } from "../../workers/scheduler/main.ts";
import { openTestChat, type TestChat } from "../support/chat.ts";
import { eventually } from "../support/eventually.ts";
import { openTestStore, type TestStore } from "../support/redis.ts";

const HOUR_MS = 3_600_000;
const text = (words: string) => ({ text: words });

let store: TestStore;
let chat: TestChat;
const clients: Client[] = [];

beforeAll(async () => {
  store = await openTestStore("agenda-wire");
  chat = await openTestChat(store);
  await chat.startRole(scheduler, "scheduler");
});
afterAll(async () => {
  for (const client of clients) client.close();
  await chat[Symbol.asyncDispose]();
  await store[Symbol.asyncDispose]();
});

async function call(user: string, method: string, path: string, body?: unknown) {
  const response = await chat.http(user, method, path, body);
  return { status: response.status, ...((await response.json()) as Record<string, never>) } as Record<string, unknown>;
}

test("reminders by HTTP", async () => {
  const at = Date.now() + HOUR_MS;
  const made = await call("ann", "POST", "/v1/reminders", { at, text: "tea" });
  expect(made).toMatchObject({ status: 201, reminder: { state: "waiting", at, text: "tea" } });
  const { id } = made.reminder as { id: string };
  const one = `/v1/reminders/${id}`;
  await call("ann", "POST", "/v1/reminders", { at: at + 1, text: "later" });
  const page = await call("ann", "GET", "/v1/reminders?limit=1");
  expect(page).toMatchObject({ status: 200, reminders: [{ id }] });
  const rest = await call("ann", "GET", `/v1/reminders?after=${page.next}`);
  expect(rest).toEqual({ status: 200, reminders: [expect.objectContaining({ text: "later" })] });
  expect(await call("ann", "PATCH", one, { at: 1 })).toEqual({ status: 200, result: "ok" });
  await eventually(async () => {
    expect(await call("ann", "GET", "/v1/reminders?limit=1")).toMatchObject({ reminders: [{ id, state: "fired" }] });
  });
  expect(await call("ann", "PATCH", one, { at })).toEqual({ status: 200, result: "already_fired" });
  expect(await call("ann", "POST", `${one}/snooze`, { at })).toEqual({ status: 200, result: "ok" });
  expect(await call("ann", "DELETE", one)).toEqual({ status: 200, result: "ok" });
  expect(await call("bob", "DELETE", one)).toEqual({ status: 200, result: "not_found" });
  const wrong = [{ at, text: "" }, { at, text: "x".repeat(1_025) }, { at }, { at: "now", text: "tea" }];
  for (const body of wrong)
    expect(await call("ann", "POST", "/v1/reminders", body)).toMatchObject({ status: 400, code: "INVALID" });
});

test("scheduled messages by HTTP", async () => {
  const conversation = await chat.group("cid", "dan");
  const path = `/v1/conversations/${conversation}/messages`;
  const deliverAt = Date.now() + HOUR_MS;
  const message = { clientId: "c1", body: text("later"), deliverAt };
  const put = await call("cid", "POST", path, message);
  expect(put).toEqual({ status: 202, scheduled: expect.any(String), deliverAt });
  expect(await call("cid", "POST", path, message)).toEqual(put);
  expect(await call("cid", "POST", path, { ...message, body: text("other") })).toMatchObject({
    status: 409,
    code: "CONFLICT",
  });
  expect(await call("eve", "POST", path, message)).toMatchObject({ status: 403, code: "NOT_MEMBER" });
  expect(await call("cid", "POST", path, { clientId: "c2", body: text("now"), expireAt: 1 })).toMatchObject({
    status: 400,
  });
  expect(await call("cid", "POST", path, { clientId: "c2", body: text("now"), deliverAt: 1 })).toMatchObject({
    status: 201,
    seq: 1,
  });
  const list = await call("cid", "GET", "/v1/scheduled");
  expect(list.scheduled).toMatchObject([{ id: put.scheduled, state: "waiting", conversation, body: text("later") }]);
  const one = `/v1/scheduled/${put.scheduled}`;
  expect(await call("cid", "PATCH", one, { at: deliverAt + 1 })).toEqual({ status: 200, result: "ok" });
  expect(await call("cid", "PATCH", one, { at: 1 })).toEqual({ status: 200, result: "ok" });
  await eventually(async () => {
    const { messages } = await call("dan", "GET", path);
    expect(messages).toMatchObject([{ body: text("now") }, { body: text("later"), from: "cid" }]);
  });
  expect(await call("cid", "DELETE", one)).toEqual({ status: 200, result: "already_fired" });
  expect(await call("cid", "GET", "/v1/scheduled")).toEqual({ status: 200, scheduled: [] });
});

test("on the socket all connections of the user hear what has come", async () => {
  using phone = await chat.connect("fay");
  using laptop = await chat.connect("fay");
  const { conversation } = await phone.request("conversation.create", { type: "group", members: ["gil"] });
  const { reminder } = await phone.request("reminder.create", { at: 0, text: "tea" });
  const { scheduled } = await phone.request("message.send", {
    ...{ conversation: conversation.id, clientId: "c1", body: text("later") },
    deliverAt: Date.now() + HOUR_MS,
  });
  // Not put off by some ms: a time that has passed when it arrives puts nothing off.
  expect(await phone.request("scheduled.move", { id: scheduled, at: 1 })).toEqual({ result: "ok" });
  for (const device of [phone, laptop]) {
    expect(await device.next("reminder")).toMatchObject({ reminder: { id: reminder.id, state: "fired", text: "tea" } });
    expect(await device.next("scheduled")).toMatchObject({ scheduled: { id: scheduled, state: "sent", seq: 1 } });
    expect(await device.next("message")).toMatchObject({ message: { seq: 1, from: "fay", body: text("later") } });
  }
  const at = Date.now() + HOUR_MS;
  expect(await phone.request("reminder.snooze", { id: reminder.id, at })).toEqual({ result: "ok" });
  expect(await phone.request("reminder.move", { id: reminder.id, at: at + 1 })).toEqual({ result: "ok" });
  expect(await laptop.request("reminder.list", {})).toMatchObject({ reminders: [{ id: reminder.id, at: at + 1 }] });
  expect(await phone.request("reminder.cancel", { id: reminder.id })).toEqual({ result: "ok" });
  expect(await phone.request("scheduled.list", {})).toEqual({ scheduled: [] });
  expect(await phone.request("scheduled.cancel", { id: scheduled })).toEqual({ result: "already_fired" });
});

test("the client library puts off and hears", async () => {
  const client = connect({ url: `${chat.url.replace("http", "ws")}/v1/ws`, getToken: () => chat.token("hal") });
  clients.push(client);
  const heard: string[] = [];
  client.on("reminder", ({ reminder }) => heard.push(`reminder ${reminder.text}`));
  client.on("scheduled", ({ scheduled }) => heard.push(`scheduled ${scheduled.state} ${scheduled.code}`));
  const { conversation } = await client.create({ type: "group", members: [] });
  await client.remind({ at: Date.now() + 200, text: "tea" });
  const put = await client.schedule(conversation.id, "later", Date.now() + HOUR_MS);
  expect(put).toHaveProperty("scheduled");
  await client.request("conversation.dissolve", { conversation: conversation.id });
  // Due only now: it must find the conversation dissolved.
  const { scheduled } = put as { scheduled: string };
  expect(await client.request("scheduled.move", { id: scheduled, at: 1 })).toEqual({ result: "ok" });
  await eventually(() => expect(heard.toSorted()).toEqual(["reminder tea", "scheduled refused FORBIDDEN"]));
});
