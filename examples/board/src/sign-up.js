// Signing up, as one program that may take a day: a person is written down, a letter leaves, and it
// waits for the first visit. What was done is not done again, whatever dies in between.

import { WorkflowEntrypoint } from "cloudflare:workers";
import { migrate } from "./schema.js";

const VISIT = "visited";
const WRITTEN_MS_MAX = 10_000;

export class SignUp extends WorkflowEntrypoint {
  async run({ payload: { name } }, step) {
    const letter = (title, text) => step.do(title, () => this.env.MAIL.send({ to: name, text }));
    await step.do("write down", async () => {
      await migrate(this.env.DB);
      await this.env.DB.prepare("INSERT OR IGNORE INTO people (name) VALUES (?)").bind(name).run();
    });
    await letter("welcome", `Welcome to the board, ${name}.`);
    const came = await step.waitForEvent("first visit", { type: VISIT, timeout: "1 day" }).catch(() => null);
    if (came) await letter("greet", `You have found the room, ${name}. Post what you like.`);
    else await letter("remind", `Come and see the board, ${name}: others are there.`);
  }
}

// One for each name, and never two: nobody gets a name that somebody else is signing up with.
async function idOf(name) {
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", new TextEncoder().encode(name)));
  return [...digest].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

// Returns whether the name was free.
export async function signUp(env, name) {
  const known = () => env.DB.prepare("SELECT 1 FROM people WHERE name = ?").bind(name).first();
  if (await known()) return false;
  const [begun] = await env.SIGN_UP.createBatch([{ id: await idOf(name), params: { name } }]);
  if (!begun) return false;
  for (const end = Date.now() + WRITTEN_MS_MAX; !(await known()); await scheduler.wait(20)) {
    if (Date.now() > end) throw new Error("The sign-up has begun, and takes longer than a visitor waits.");
  }
  return true;
}

// The first visit is told once; it is no loss when the sign-up is long over.
export async function visited(env, name) {
  const first = env.DB.prepare("UPDATE people SET visited = 1 WHERE name = ? AND visited = 0");
  if (!(await first.bind(name).run()).meta.changes) return;
  try {
    await (await env.SIGN_UP.get(await idOf(name))).sendEvent({ type: VISIT });
  } catch (error) {
    console.warn("nobody waits for the first visit of", name, error.message);
  }
}
