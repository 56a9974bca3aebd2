/** `bun run skein <command>`: set-up, then the command. Nothing is imported from packages before they are installed. */

import { runWithSetUp } from "./setup.ts";

// Only a replay starts a Redis of its own.
await runWithSetUp(new URL("./skein/main.ts", import.meta.url).pathname, { redis: process.argv[2] === "replay" });
