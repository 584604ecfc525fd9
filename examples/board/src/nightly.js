// Each night: a letter to everybody who has posted, with how often.

export async function digest(env) {
  const { results } = await env.DB.prepare("SELECT name, posts FROM people WHERE posts > 0").all();
  if (!results.length) return;
  await env.MAIL.sendBatch(
    results.map(({ name, posts }) => ({ body: { to: name, text: `You have posted ${posts} times.` } })),
  );
  await env.DB.prepare("UPDATE people SET posts = 0").run();
}
