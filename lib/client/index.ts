/**
 * The client of the chat, for browsers and Bun: one WebSocket that comes back by itself, requests that survive it, and each
 * conversation's entries once, in order, without a hole. No dependencies; copy the folder into an app (README.md).
 *
 *   const client = connect({ url: "ws://127.0.0.1:7400/v1/ws", getToken });
 *   client.on("message", ({ message }) => console.log(message.from, message.body.text));
 *   await client.send("conversation-id", "hello");
 *
 *   client.ts    what an app sees       connect.ts    the client, put together      calls.ts    what is asked most
 *   events.ts    what it is told        arrivals.ts   what the server tells, sorted
 *   socket.ts    one session            requests.ts   answers over many sockets     outbox.ts   messages until their commit
 *   timeline.ts  order without a hole   passing.ts    typing, presence, receipts    store.ts    what outlives the app
 *   fold.ts      what a message looks like after an entry
 *   model.ts, methods.ts, wire.ts       types of what crosses the wire
 *   error.ts, backoff.ts                what a call fails with, and how long to wait before the next try
 */

export type { Client, ConnectOptions, Content, SendOptions } from "./client.ts";
export { connect } from "./connect.ts";
export { ClientError } from "./error.ts";
export type { ClientEvents } from "./events.ts";
export { fold } from "./fold.ts";
export type * from "./methods.ts";
export type * from "./model.ts";
export type { Kept, Store, Unsent } from "./store.ts";
export type { ResyncNotice } from "./timeline.ts";
export type * from "./wire.ts";
