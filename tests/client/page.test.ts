/** The page for app teams, lib/client/README.md: its app, run as it is printed, over a copy of the folder and beside a real gateway. */

import { expect, test } from "bun:test";
import { join } from "node:path";
import { connect } from "../../lib/client/index.ts";
import { layOutPage } from "../../scripts/browser/page.ts";
import { openTestChat } from "../support/chat.ts";
import { eventually } from "../support/eventually.ts";
import { temporaryFolder } from "../support/folder.ts";
import { openTestStore } from "../support/redis.ts";

/** A browser's storage, as far as the app uses it. */
const STORAGE = `
const kept = new Map();
globalThis.localStorage = { getItem: (key) => kept.get(key) ?? null, setItem: (key, text) => void kept.set(key, text) };
`;

test("an app of thirty lines shows what both write, edit, react to and recall", async () => {
  await using store = await openTestStore("client-page");
  await using chat = await openTestChat(store);
  using folder = temporaryFolder("client-page");
  await using backend = Bun.serve({
    port: 0,
    hostname: "127.0.0.1",
    fetch: async () => new Response(await chat.token("alice")),
  });
  const gateway = `${chat.url.replace("http", "ws")}/v1/ws`;
  const app = layOutPage(folder.path, { gateway, tokens: `http://127.0.0.1:${backend.port}/chat-token` });
  await Bun.write(join(folder.path, "storage.ts"), STORAGE);

  const bob = connect({ url: gateway, token: await chat.token("bob") });
  bob.on("message", async ({ message: { conversation, from, seq } }) => {
    if (from !== "alice") return;
    await bob.react(conversation, seq, "ok");
    const draft = await bob.send(conversation, "helo");
    await bob.edit(conversation, draft.seq, { text: "hello, alice" });
    const slip = await bob.send(conversation, "a slip");
    await bob.recall(conversation, slip.seq);
  });
  await bob.ready();

  const running = Bun.spawn([process.execPath, "--preload", "./storage.ts", app], {
    cwd: folder.path,
    stdout: "pipe",
    stderr: "inherit",
  });
  let said = "";
  const reading = (async () => {
    for await (const chunk of running.stdout) said += new TextDecoder().decode(chunk);
  })();
  const last = JSON.stringify(["alice: hello", "bob: hello, alice", "bob: (recalled)"]);
  await eventually(() => expect(said.trim().split("\n").at(-1)).toBe(last));
  running.kill();
  await reading;
  bob.close();
});
