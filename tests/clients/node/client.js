// A client of phi3svc written from its protos alone.
//
//   node client.js ADDRESS METHOD [REQUEST]
//
// METHOD: generate, classify or classifyTokens. REQUEST: the request message as JSON, with the
// field names of the protos. Prints one JSON line per response. A failed call prints its status
// with all details to stderr and exits with 1.
'use strict';

const path = require('path');
const grpc = require('@grpc/grpc-js');
const loader = require('@grpc/proto-loader');

const OPTIONS = { keepCase: true, longs: String, enums: String, oneofs: true };
const ROOT = path.join(__dirname, '..', '..', '..', 'protos');

const api = grpc.loadPackageDefinition(
  loader.loadSync(
    ['generation', 'classification'].map((name) => `phi3svc/v1/${name}_service.proto`),
    { ...OPTIONS, includeDirs: [ROOT] },
  ),
).phi3svc.v1;
const errors = loader.loadSync(path.join(__dirname, 'rich_errors.proto'), OPTIONS);

const SERVICES = {
  generate: api.GenerationService,
  classify: api.ClassificationService,
  classifyTokens: api.ClassificationService,
};

// The messages in `grpc-status-details-bin`, each under its type's name.
function detailsOf(error) {
  const [bytes] = error.metadata.get('grpc-status-details-bin');
  if (bytes === undefined) return {};
  const found = {};
  for (const { type_url: url, value } of errors['google.rpc.Status'].deserialize(bytes).details) {
    const type = errors[url.split('/').pop()];
    if (type !== undefined) found[url.split('.').pop()] = type.deserialize(value);
  }
  return found;
}

function fail(error) {
  const status = { code: grpc.status[error.code], message: error.details };
  console.error(JSON.stringify({ ...status, details: detailsOf(error) }));
  process.exitCode = 1;
}

function main([address, method, request = '{}']) {
  const client = new SERVICES[method](address, grpc.credentials.createInsecure());
  const options = { deadline: Date.now() + 60000 };
  const print = (message) => console.log(JSON.stringify(message));
  if (method === 'generate') {
    const call = client.generate(JSON.parse(request), options);
    call.on('data', print);
    call.on('error', fail);
    call.on('close', () => client.close());
  } else {
    client[method](JSON.parse(request), options, (error, response) => {
      if (error) fail(error);
      else print(response);
      client.close();
    });
  }
}

main(process.argv.slice(2));
