/**
 * `skein chat <user>`: a chat in the terminal. Two of them, alice and bob, talk to each other at once: alice's partner is bob
 * unless another is named, everybody else's is alice.
 *
 * What others write is shown without its control characters: a terminal obeys them.
 */

import { createInterface } from "node:readline";
import { defineCommand } from "citty";
import { type Client, ClientError, connect, type Message } from "../../lib/client/index.ts";
import { Failure, findRunning, socketUrl } from "./running.ts";
import { printable } from "./table.ts";
import { mintToken } from "./token.ts";

/** Earlier messages shown at the start. */
const SHOWN_AT_START = 20;

export const chat = defineCommand({
  meta: { name: "chat", description: "Chat in the terminal; two terminals talk to each other" },
  args: {
    user: { type: "positional", description: "Who you are", required: true },
    with: { type: "string", description: "Whom to talk to (default: alice and bob, each other)" },
    conversation: { type: "string", description: "Or the id of a conversation that you are a member of" },
  },
  async run({ args }) {
    const { url, urls, serviceKey } = findRunning();
    const { user } = args;
    const getToken = async () => (await mintToken({ url, serviceKey, user })).token;
    const client = connect({ url: urls.map(socketUrl), getToken, device: "terminal" });
    try {
      await client.ready();
      const conversation =
        args.conversation ?? (await direct(client, args.with ?? (user === "alice" ? "bob" : "alice")));
      await talk(client, user, conversation);
    } catch (error) {
      if (error instanceof ClientError) throw new Failure(error.message);
      throw error;
    } finally {
      client.close();
    }
  },
});

async function direct(client: Client, partner: string): Promise<string> {
  const { conversation } = await client.create({ type: "direct", members: [partner] });
  console.log(`Talking to ${partner}. Write a line and press Enter; Ctrl-D ends.`);
  return conversation.id;
}

/** Until the input ends, and then until everything that was written is committed. */
async function talk(client: Client, user: string, conversation: string): Promise<void> {
  const isTerminal = process.stdin.isTTY === true && process.stdout.isTTY === true;
  const lines = createInterface({ input: process.stdin, output: process.stdout, terminal: isTerminal, prompt: "" });
  const print = (text: string) => {
    // What is being typed stays the last line.
    if (isTerminal) process.stdout.write("\r\u001b[K");
    console.log(text);
    if (isTerminal) lines.prompt(true);
  };
  let shown = 0;
  const show = (message: Message) => {
    if (message.conversation !== conversation || message.seq <= shown) return;
    shown = message.seq;
    print(describe(message));
    if (message.from !== user) client.read(conversation, message.seq).catch(report);
  };
  const report = (error: unknown) => print(`! ${error instanceof Error ? error.message : error}`);

  client.on("message", ({ message }) => show(message));
  client.on("offline", ({ reason }) => print(`! offline (${reason}); reconnecting`));
  client.on("online", () => print("! online again"));
  client.on("ended", ({ error }) => {
    report(error);
    lines.close();
  });
  // Lines may come before the history is there, all at once and with their end: from a pipe, or from a fast hand.
  const closed = new Promise((resolve) => lines.once("close", resolve));
  const begun = client.history(conversation, { limit: SHOWN_AT_START }).then(({ messages }) => {
    for (const message of messages) show(message);
  });
  const sends = new Set<Promise<unknown>>();
  lines.on("line", (text) => {
    // The typed line gives way to the message as it was committed.
    if (isTerminal) process.stdout.write("\u001b[1A\u001b[K");
    if (text === "") return;
    const sent = begun
      .then(() => client.send(conversation, text))
      .catch(report)
      .finally(() => sends.delete(sent));
    sends.add(sent);
  });
  await begun;
  await closed;
  await Promise.all(sends);
}

function describe({ from, type, body, sentAt, recalledAt }: Message): string {
  const text = recalledAt === undefined ? (body.text ?? `(${type})`) : "(recalled)";
  return `${new Date(sentAt).toTimeString().slice(0, 5)} ${from}: ${printable(text).replaceAll("\n", "\n      ")}`;
}
