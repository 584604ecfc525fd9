// tries: where clouds keep a machine's credentials, as number, name and with the headers they ask for
// seen: each is refused and nothing arrives
import { get, named, tries, world } from './tries.js';

const paths = ['/latest/meta-data/iam/security-credentials/', '/computeMetadata/v1/', '/metadata/instance'];
const headers = { 'Metadata-Flavor': 'Google', Metadata: 'true', 'X-aws-ec2-metadata-token-ttl-seconds': '60' };
const hosts = ['169.254.169.254', '[fd00:ec2::254]', named('169.254.169.254'), named('fd00:ec2::254'),
  '169.254.169.254.', '0xa9fea9fe', '2852039166', '0251.0376.0251.0376', '[::ffff:169.254.169.254]'];
export default {
  fetch: () => tries(hosts.flatMap((host) => [
    ...paths.map((path) => [host + path, () => get(`http://${host}${path}`, { headers })]),
    [`PUT ${host}`, () => get(`http://${host}/latest/api/token`, { method: 'PUT', headers })],
  ])),
  world,
};
